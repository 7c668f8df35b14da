"""Where a process computes, and how numbers get there."""

from __future__ import annotations

import pytest
import torch
from pretended_cuda import pretended_cuda

from distillery.devices import AUTO, VARIABLE, generator, resolved, sent
from distillery.errors import InputError


@pytest.mark.parametrize(
    ("named", "gpus", "expected"),
    [
        (None, 0, "cpu"),
        (None, 2, "cuda"),
        ("", 1, "cuda"),
        ("auto", 1, "cuda"),
        ("cpu", 1, "cpu"),
        ("cuda:1", 0, "cuda:1"),
    ],
)
def test_the_environment_decides_or_else_the_machine(
    named: str | None, gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """golden: a device that the user names wins; one that the caller names is left alone."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv(VARIABLE, raising=False)
    if named is not None:
        monkeypatch.setenv(VARIABLE, named)
    assert resolved() == resolved(AUTO) == expected
    assert resolved("cuda:3") == "cuda:3"


def test_a_device_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: one line that names the variable and the value."""
    monkeypatch.setenv(VARIABLE, "gpu")
    with pytest.raises(InputError, match=r"^DISTILLERY_DEVICE: expected auto, cpu, cuda, .*, got 'gpu'$"):
        resolved()


def test_to_a_gpu_nobody_waits_for_a_copy() -> None:
    """contract: it goes by pinned memory; what is there already, or stays on the CPU, is not copied."""
    values = torch.arange(3.0)
    assert sent(values, "cpu") is values
    with pretended_cuda() as seen:
        there = sent(values, "cuda")
        assert there.is_cuda and sent(there, "cuda") is there
    assert sum(seen.pinned.values()) == 1 and not seen.pageable and not seen.waits


def test_generators_differ_by_seed_and_purpose() -> None:
    """property: and are the same for the same two."""

    def drawn(seed: int, purpose: int) -> list[float]:
        return torch.rand(3, generator=generator(seed, purpose)).tolist()

    assert drawn(1, 2) == drawn(1, 2)
    assert len({tuple(drawn(seed, purpose)) for seed in (1, 2) for purpose in (1, 2)}) == 4
