"""The pretended CUDA: faults that a GPU would show are shown, and what waits for a GPU is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pretended_cuda import pretended_cuda
from torch import nn

from distillery.config.experiment import Recipe
from distillery.training.feed import Inputs
from distillery.training.fit import TrainJob, fit
from distillery.training.objectives import Answers, Labels

ROWS = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
LABELS = torch.arange(20) % 3


class Added(nn.Module):
    """A network that adds something to its logits, as a user's own may."""

    def __init__(self, added: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.added = nn.Linear(4, 3), added

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.layer(rows) + self.added(rows)


def train(network: nn.Module, labels: torch.Tensor) -> None:
    """Two epochs of two steps on the pretended GPU."""
    objective = Labels(Answers(labels, None, 3), [0.0])
    recipe = Recipe(epochs=2, batch_size=10)
    fit([TrainJob(network, recipe, 0, Inputs(ROWS, np.arange(20), "cuda"))], objective, device="cuda")


FAULTS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "two devices": (lambda: torch.ones(2, device="cuda") + torch.ones(2), RuntimeError, "at least two devices"),
    "two devices in a list": (
        lambda: torch.stack([torch.ones(2, device="cuda"), torch.ones(2)]),
        RuntimeError,
        "at least two devices",
    ),
    "numpy of a GPU's tensor": (lambda: torch.ones(2).to("cuda").numpy(), TypeError, "Use Tensor.cpu"),
    "a CPU's generator for a GPU": (
        lambda: torch.randn(2, device="cuda", generator=torch.Generator()),
        RuntimeError,
        "Expected a 'cuda' device type for generator but found 'cpu'",
    ),
    "a GPU's generator for a CPU": (
        lambda: torch.randperm(4, generator=torch.Generator("cuda")),
        RuntimeError,
        "Expected a 'cpu' device type for generator but found 'cuda'",
    ),
    "a GPU's index of a CPU's tensor": (
        lambda: torch.ones(5)[torch.tensor([1], device="cuda")],
        RuntimeError,
        "indices should be either on cpu",
    ),
    "a network that makes a tensor on the CPU": (
        lambda: train(Added(lambda rows: torch.arange(3)), LABELS.to("cuda")),
        RuntimeError,
        "at least two devices",
    ),
    "labels that were left on the CPU": (
        lambda: train(nn.Linear(4, 3), LABELS),
        RuntimeError,
        "indices should be either on cpu",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cuda_refuses_is_refused(fault: str) -> None:
    """contract: with the words of CUDA's own errors; outside, a CPU is a CPU again."""
    act, kind, words = FAULTS[fault]
    with pretended_cuda(), pytest.raises(kind, match=words):
        act()
    assert torch.ones(2).device.type == "cpu" and torch.Generator().device.type == "cpu"


def test_what_cuda_allows_is_allowed() -> None:
    """contract: numbers, scalars of the CPU and its indices go with a GPU's tensor; copies change the device."""
    with pretended_cuda():
        values = torch.arange(4.0, device="cuda") * torch.tensor(2.0)
        assert values.device == torch.device("cuda", 0) and values.is_cuda
        assert values[torch.tensor([1])].device.type == "cuda"
        back = values.cpu()
        assert back.device.type == "cpu" and back.numpy().tolist() == [0, 2, 4, 6]
        module = nn.Linear(4, 1).to("cuda")
        assert module(values).device.type == "cuda" and module.weight.requires_grad
        module(values).sum().backward()
        assert module.weight.grad is not None and module.weight.grad.is_cuda
        assert not module.to("cpu").weight.is_cuda


def test_a_wait_in_every_step_is_counted_in_every_step() -> None:
    """golden: two epochs of two steps, by a network that asks the GPU for a number each time."""
    asked: list[float] = []

    def asks(rows: torch.Tensor) -> torch.Tensor:
        asked.append(rows.sum().item())
        return torch.zeros((), device="cuda")

    counts = []
    for added in (asks, lambda rows: torch.zeros((), device="cuda")):
        with pretended_cuda() as seen:
            train(Added(added), LABELS.to("cuda"))
        counts.append(sum(seen.waits.values()))
    assert counts[0] - counts[1] == len(asked) == 4
