"""One network by torch's own means: its predictions, and training where the device's memory is short."""

from __future__ import annotations

import logging

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from distillery.config.experiment import Recipe
from distillery.training.feed import Inputs
from distillery.training.fit import TrainJob, fit
from distillery.training.objectives import Answers, Taught
from distillery.training.single import predict

ROWS = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)


class Narrow(nn.Module):
    """A network on a device that cannot hold more than some rows."""

    def __init__(self, most: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.most, self.layer, self.seen = most, nn.Linear(6, 3), 0

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits, unless there are too many rows."""
        if self.training and len(rows) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.seen = max(self.seen, len(rows))
        return self.layer(rows)


def trained(most: int, network: nn.Module | None = None) -> tuple[nn.Module, list[dict[str, float]]]:
    """The network after two epochs in batches of 24, and its history."""
    network, generator = network or Narrow(most), np.random.default_rng(1)
    targets = torch.from_numpy(generator.normal(size=(64, 3)).astype(np.float32))
    answers = Answers(torch.from_numpy(generator.integers(0, 3, 64)), None, 3)
    objective = Taught(targets, answers, "kd", [{}], [2.0], [0.7], [0.0])
    recipe = Recipe(epochs=2, batch_size=24, lr=0.01, clip_norm=1.0)
    (result,) = fit([TrainJob(network, recipe, 0, Inputs(ROWS, np.arange(64), "cpu"))], objective)
    return network, result.history


def test_a_batch_that_does_not_fit_goes_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    """reference: the same weights and losses as from whole batches; said once for each size that was tried, and in the
    history."""
    whole, before = trained(1000)
    with caplog.at_level(logging.WARNING):
        parted, history = trained(7)
    assert torch.allclose(parted.layer.weight, whole.layer.weight, atol=1e-6)
    assert [r["train_loss"] for r in history] == pytest.approx([r["train_loss"] for r in before], rel=1e-5)
    assert [r["rows_at_once"] for r in history] == [6, 6] and "rows_at_once" not in before[0]
    said = [record.getMessage() for record in caplog.records]
    assert [message.split(" network ")[1] for message in said] == ["12 rows at a time", "6 rows at a time"]
    assert parted.seen <= 7


def test_parts_with_statistics_of_their_own_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """contract: batch normalisation in parts makes another network; the warning says so."""
    network = nn.Sequential(nn.BatchNorm1d(6), Narrow(12))
    with caplog.at_level(logging.WARNING):
        _, history = trained(12, network)
    assert [record["rows_at_once"] for record in history] == [12, 12]
    assert caplog.messages[0].endswith("12 rows at a time; its batch statistics are those of so many rows")


def test_a_network_that_cannot_hold_one_row_fails() -> None:
    """contract: the error of the device itself, not an endless loop."""
    with pytest.raises(torch.OutOfMemoryError):
        trained(0)


class Binned(nn.Module):
    """What an MLP with bins does: a large tensor of every batch, and a small one that is the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(1300, 8), nn.Linear(8, 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits [B, 2] of rows [B, 20]."""
        wide = rows.index_select(1, torch.arange(1280) % 20).clamp(0, 1)
        return self.last(self.first(torch.cat([rows, wide], 1)).relu()) / 2


def test_answers_that_are_kept_hold_no_memory_of_their_batches() -> None:
    """budget: over fifty batches of 5 MB the process grows by less than six of them; small parts once held all."""
    network, rows, process = Binned(), np.random.default_rng(0).random((51200, 20), np.float32), psutil.Process()
    predict(network, rows[:2048])
    peaks = [process.memory_info().rss]
    network.register_forward_hook(lambda *_: peaks.append(process.memory_info().rss))
    found = predict(network, rows)
    assert found.shape == (51200, 2) and len(peaks) == 52  # one for the rows that are tried
    assert max(peaks) - peaks[0] < 30e6


def test_predictions_do_not_depend_on_the_batch() -> None:
    """reference: the network in evaluation mode, row by row."""
    network = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 3))
    expected = [network.eval()(torch.from_numpy(row)).tolist() for row in ROWS]
    for size in (1, 7, 64, 100):
        network.train()
        np.testing.assert_allclose(predict(network, ROWS, batch_size=size), expected, atol=1e-6)
