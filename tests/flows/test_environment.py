"""What the environment may say."""

import os

import pytest

from distillery.errors import InputError
from distillery.flows.environment import Places


@pytest.mark.parametrize(("text", "price"), [("", None), ("0", 0.0), ("2.5", 2.5)])
def test_a_price_is_a_number_or_absent(monkeypatch: pytest.MonkeyPatch, text: str, price: float | None) -> None:
    """golden."""
    monkeypatch.setenv("DISTILLERY_PRICE_PER_HOUR", text)
    assert Places.from_environment().price_per_hour == price


@pytest.mark.parametrize("text", ["2 EUR", "-1", "nan", "inf"])
def test_another_price_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """contract: one line that names the variable and the value."""
    monkeypatch.setenv("DISTILLERY_PRICE_PER_HOUR", text)
    with pytest.raises(InputError, match=rf"DISTILLERY_PRICE_PER_HOUR: expected .*, got '{text}'"):
        Places.from_environment()


@pytest.mark.parametrize(
    ("device", "visible", "text", "workers"),
    [("cuda", "0,1,2,3", "2", 2), ("cuda", "4,6", "1", 2), ("cuda", "4,6", "2", 1), ("cpu", "0,1", "2", None)],
)
def test_there_are_as_many_workers_as_gpus_to_train_on(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str, text: str, workers: int | None
) -> None:
    """golden: each worker has as many as train one teacher together; on a CPU the cores are divided."""
    monkeypatch.delenv("DISTILLERY_WORKERS", raising=False)
    monkeypatch.setenv("DISTILLERY_DEVICE", device)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("DISTILLERY_GPUS_PER_TRAINING", text)
    places = Places.from_environment()
    cores = max(1, len(os.sched_getaffinity(0)) // int(text))
    assert places.workers == (cores if workers is None else workers)


@pytest.mark.parametrize(
    ("device", "text", "expected"),
    [
        ("cuda", "3", "a divisor of the 4 visible GPUs, got 3"),
        ("cuda", "8", "a divisor of the 4 visible GPUs, got 8"),
        ("cuda:1", "2", "1 on the one device 'cuda:1', got 2"),
        ("cpu", "0", "a number of GPUs, got '0'"),
        ("cpu", "two", "a number of GPUs, got 'two'"),
    ],
)
def test_gpus_that_cannot_be_dealt_out_are_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, text: str, expected: str
) -> None:
    """contract: one line that names the variable, what fits and the value."""
    monkeypatch.setenv("DISTILLERY_DEVICE", device)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setenv("DISTILLERY_GPUS_PER_TRAINING", text)
    with pytest.raises(InputError, match=f"^DISTILLERY_GPUS_PER_TRAINING: expected {expected}$"):
        Places.from_environment()


def test_a_device_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: before anything is computed."""
    monkeypatch.setenv("DISTILLERY_DEVICE", "gpu")
    with pytest.raises(InputError, match=r"^DISTILLERY_DEVICE: expected auto, cpu, cuda"):
        Places.from_environment()
