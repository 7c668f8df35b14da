"""Logits of many rows: how many go through a network at a time, and that it changes nothing. N rows, C classes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from distillery.training import answers
from distillery.training.answers import LargestCall
from distillery.training.single import predict

ROWS = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)


class Watched(nn.Module):
    """A network that notes its batches, and on a device that holds no more than some rows."""

    def __init__(self, most: int = 1 << 30, wide: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.most, self.wide, self.batches = nn.Linear(6, 3), most, wide, list[int]()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits, by way of a tensor so many times as wide as the rows."""
        self.batches.append(len(rows))
        if len(rows) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.layer(rows.repeat(1, self.wide)[:, :6])


def expected(rows: np.ndarray = ROWS) -> np.ndarray:
    """What the network answers to each row by itself."""
    network = Watched()
    with torch.no_grad():
        return np.stack([network(torch.from_numpy(row[None]).float())[0].numpy() for row in rows])


def test_rows_that_the_device_refuses_go_in_smaller_parts(caplog: pytest.LogCaptureFixture) -> None:
    """reference: every row's answer, by a network that raises OutOfMemoryError above 64 rows; each size is said."""
    network = Watched(most=64)
    with caplog.at_level(logging.WARNING):
        found = predict(network, ROWS)
    np.testing.assert_allclose(found, expected(), atol=1e-6)
    assert network.batches == [2, 300, 150, 75, *[38] * 7, 34]
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "memory: the device cannot hold 300 rows to be predicted, next are 150" and len(said) == 3


def test_a_network_that_cannot_hold_one_row_fails() -> None:
    """contract: the device's own error, and no endless loop."""
    with pytest.raises(torch.OutOfMemoryError):
        predict(Watched(most=0), ROWS)


@pytest.mark.parametrize(
    ("limit", "wide", "size"),
    [(1 << 30, 1, 300), (100 * 72, 1, 100), (100 * 72, 10, 100 * 72 // (24 * 12)), (1, 1, 1)],
)
def test_the_batch_is_as_large_as_the_memory_allows(
    limit: int, wide: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """golden: a row takes its own 24 bytes and what the largest call takes and gives; logits stay the same."""
    monkeypatch.setattr(answers, "working_bytes", lambda device: limit)
    network = Watched(wide=wide)
    np.testing.assert_allclose(predict(network, ROWS), expected(), atol=1e-6)
    assert network.batches[0] == answers.TRIED_ROWS and max(network.batches[1:]) == size
    assert sum(network.batches[1:]) == len(ROWS)


def test_no_batch_is_larger_than_asked_for() -> None:
    """contract: `batch_size` is a limit; a row or two are not tried before."""
    network = Watched()
    predict(network, ROWS, batch_size=128)
    assert network.batches == [2, 128, 128, 44]
    network.batches.clear()
    predict(network, ROWS[:2])
    assert network.batches == [2]


def test_rows_are_read_from_the_map_by_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: numpy's own indexing; of a pack on disk no more than a batch is read at once."""
    np.save(tmp_path / "inputs.npy", ROWS)
    mapped, asked = np.load(tmp_path / "inputs.npy", mmap_mode="r"), list[int]()

    class Noting(np.memmap):
        """The map, which notes how many rows it is asked for."""

        def __getitem__(self, rows: object) -> np.ndarray:
            """Some rows."""
            found = np.asarray(super().__getitem__(rows))
            asked.append(len(found))
            return found

    monkeypatch.setattr(answers, "working_bytes", lambda device: 50 * 72)
    rows = np.random.default_rng(1).permutation(300)[:120]
    found = predict(Watched(), mapped.view(Noting), rows)
    np.testing.assert_allclose(found, expected(ROWS[rows]), atol=1e-6)
    assert max(asked) == 50


CALLS: dict[str, tuple[Callable[[torch.Tensor], object], int]] = {
    "a module": (nn.Linear(4, 10), 2 * 4 * (4 + 10)),
    "a function without a module": (lambda rows: functional.pad(rows, (0, 96)).sum(), 2 * 4 * (4 + 100)),
    "a list": (lambda rows: torch.cat([rows, rows * 2]), 2 * 4 * (4 + 4 + 8)),
    "the largest of several": (lambda rows: (rows.repeat(1, 9).sum(1), rows + 1), 2 * 4 * (4 + 36)),
    "in place": (lambda rows: rows.relu_(), 2 * 4 * 4),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_largest_call_is_what_it_takes_and_gives(name: str) -> None:
    """golden: bytes of its tensors, without parameters, each counted once."""
    act, size = CALLS[name]
    with LargestCall() as seen:
        act(torch.ones(2, 4))
    assert seen.bytes == size
