"""A worker's share of its machine. Real workers take theirs in test_workers.py, test_jobs.py and test_dask.py."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
import torch

from distillery.devices import visible_gpus
from distillery.flows.tasks import networks, stages, studies
from distillery.flows.workers import device_share

Take = Callable[[], tuple[str, tuple[IO[str], ...]]]


@pytest.fixture
def take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Take:
    """What one more worker of a machine of four GPUs sees of them, and the files that it holds."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("DISTILLERY_DEVICE", raising=False)

    def take_as_another_worker() -> tuple[str, tuple[IO[str], ...]]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
            held = device_share.take.__wrapped__(1)
            return os.environ["CUDA_VISIBLE_DEVICES"], held

    return take_as_another_worker


def test_each_worker_has_a_gpu_of_its_own(take: Take) -> None:
    """contract: as long as there are some; further ones are dealt out in turn, and what a worker held is free again."""
    workers = [take() for _ in range(6)]
    assert [gpu for gpu, _ in workers] == ["0", "1", "2", "3", "0", "1"]
    for file in workers[2][1]:
        file.close()
    assert [take()[0] for _ in range(1)] == ["2"]


def test_as_many_gpus_as_train_one_teacher(take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: none of which another worker has."""
    monkeypatch.setenv("DISTILLERY_GPUS_PER_TRAINING", "2")
    workers = [take() for _ in range(3)]
    assert [gpus for gpus, _ in workers] == ["0,1", "2,3", "0,1"]
    for file in workers[0][1]:
        file.close()
    monkeypatch.setenv("DISTILLERY_GPUS_PER_TRAINING", "1")
    assert take()[0] == "0"


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_worker_with_another_device_takes_none(take: Take, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: it sees what it saw before."""
    monkeypatch.setenv("DISTILLERY_DEVICE", device)
    assert take() == ("0,1,2,3", ())


@pytest.mark.parametrize(("gpus", "told", "threads"), [("", None, 1), ("0,1", None, 3), ("0,1", "5", 7), ("", "5", 7)])
def test_a_worker_computes_on_its_part_of_the_cores(
    gpus: str, told: str | None, threads: int, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    """golden: of six cores one, or a GPU's part of them; where OMP_NUM_THREADS is set, torch keeps its own (seven)."""
    before, device = torch.get_num_threads(), "cuda" if gpus else "cpu"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: range(6))
    monkeypatch.setenv("DISTILLERY_DEVICE", device)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    torch.set_num_threads(7)
    try:
        device_share.take.__wrapped__()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("device", "visible", "together", "groups"),
    [
        ("cuda", "0,1,2,3", 2, [["0", "1"], ["2", "3"]]),
        ("cuda", "4,6", 1, [["4"], ["6"]]),
        ("cuda", "4,6", 2, [["4", "6"]]),
        ("cpu", "0,1", 2, []),
        ("cuda:1", "0,1", 1, []),
    ],
)
def test_gpus_are_dealt_out_in_groups(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str, together: int, groups: list[list[str]]
) -> None:
    """golden: none where a worker is told to use another device, or a certain GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device_share.dealt(visible_gpus(device), together) == groups


@pytest.mark.parametrize("module", [networks, stages, studies], ids=lambda module: module.__name__)
def test_no_job_is_sent_with_the_device_of_who_asks(module: object) -> None:
    """contract: the asking machine's own device is not named where jobs are sent; they say ``auto``."""
    text = Path(str(module.__file__)).read_text()  # type: ignore[attr-defined]
    assert "places.device" not in text and "device=AUTO" in text
