"""What a network is shown in training: the pack's bytes, augmented and normalised by the batch."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from pretended_cuda import pretended_cuda
from torch import nn

from distillery.config.experiment import Augment
from distillery.ops.images import Normalised
from distillery.training import augment, feed
from distillery.training.feed import Feed, Inputs

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 3, 12, 12), np.uint8)
BOTH = Augment(shift=0.25, flip=True)
SCALED = Normalised(nn.Flatten(), (120.0, 110.0, 100.0), (60.0, 50.0, 45.0))


def fed(config: Augment, network: nn.Module, items: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """What comes out of the network for one batch."""
    made = Feed(Inputs(IMAGES, np.arange(60), "cpu"), config, torch.Generator().manual_seed(seed), network)
    shown: torch.Tensor = made.network(made(items))
    return shown.clone()


@pytest.mark.parametrize("limits", [(1 << 19, 1 << 16), (1, 1 << 16), (1000, 1 << 16), (1 << 19, 1)], ids=str)
@pytest.mark.parametrize(
    "config", [Augment(), BOTH, Augment(shift=0.5), Augment(flip=True), Augment(brightness=0.3)], ids=str
)
def test_every_way_shows_the_same(config: Augment, limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: the whole batch shifted, flipped, made float and normalised by the network, bit by bit.

    Whatever the chunk, for images one by one as well, and from memory or from the pack.
    """
    monkeypatch.setattr(feed, "CHUNK_BYTES", limits[0])
    monkeypatch.setattr(feed, "LARGE_BYTES", limits[1])
    items, generator = torch.randperm(60)[:23], torch.Generator().manual_seed(0)
    before = torch.from_numpy(IMAGES)[items]
    changes = augment.drawn(23, 12, config, generator)
    expected = changes.lit(changes.of(before).float())
    for room in (1 << 30, 0):
        monkeypatch.setattr(feed, "resident_bytes", lambda device, room=room: room)
        assert torch.equal(fed(config, SCALED, items), SCALED(expected))
        assert torch.equal(fed(config, nn.Identity(), items), expected)


def test_the_source_stays_as_it_is() -> None:
    """property: neither the pack nor what is kept in memory changes, and the batch's memory is used again."""
    kept = IMAGES.copy()
    made = Feed(Inputs(IMAGES, np.arange(60), "cpu"), BOTH, torch.Generator().manual_seed(0), SCALED)
    first = made(torch.arange(20))
    again = made(torch.arange(10))
    assert np.array_equal(IMAGES, kept) and first.data_ptr() == again.data_ptr()
    assert torch.equal(fed(Augment(), nn.Identity(), torch.arange(60)), torch.from_numpy(IMAGES).float())


def test_rows_of_a_table_are_as_they_were() -> None:
    """property: features pass as they are."""
    rows = np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32)
    made = Feed(Inputs(rows, np.arange(30), "cpu"), Augment(), torch.Generator().manual_seed(4), nn.Identity())
    assert np.array_equal(made(torch.arange(7)).numpy(), rows[:7])


def test_what_a_gpu_does_not_keep_is_read_one_batch_ahead() -> None:
    """contract: by a thread, of what comes next; the batches are those that are asked for, and their copies pinned."""
    read: list[tuple[int, list[int]]] = []

    class Noting(Inputs):
        """Inputs that note who takes what."""

        def take(self, items: torch.Tensor) -> torch.Tensor:
            """A batch."""
            read.append((threading.get_ident(), items.tolist()))
            return super().take(items)

    with pretended_cuda() as seen:
        inputs = Noting(IMAGES, np.arange(60), "cuda", keep=False)
        made = Feed(inputs, Augment(), torch.Generator(), nn.Identity(), "cuda")
        read.clear()
        first, second, third = torch.arange(3), torch.arange(7, 9), torch.arange(5)
        shown = [made(first, after=second), made(second, after=third), made(third)]
        assert not made.kept and all(batch.is_cuda for batch in shown)
        found = [batch.cpu().numpy() for batch in shown]
    for batch, items in zip(found, (first, second, third), strict=True):
        assert np.array_equal(batch, IMAGES[items])
    assert [items for _, items in read] == [[0, 1, 2], [7, 8], [0, 1, 2, 3, 4]]
    assert [who == threading.get_ident() for who, _ in read] == [True, False, False]
    assert sum(seen.pinned.values()) == 3 and not seen.pageable


@pytest.mark.parametrize("limit", [0, 2 << 30])
def test_inputs_are_the_rows_of_a_split(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: numpy's own indexing, in memory or by the batch; every epoch is a shuffle of all places."""
    monkeypatch.setattr(feed, "resident_bytes", lambda device: limit)
    rows, places = np.array([7, 3, 40, 11]), torch.tensor([2, 0, 2])
    for source in (np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32), IMAGES):
        inputs = Inputs(source, rows, "cpu")
        found = inputs.take(places)
        assert len(inputs) == 4
        expected = source[rows[places.numpy()]]
        assert found.numpy().dtype == expected.dtype and np.array_equal(found.numpy(), expected)
        orders = [inputs.order(e, torch.Generator().manual_seed(e)).tolist() for e in range(20)]
        assert all(sorted(o) == [0, 1, 2, 3] for o in orders) and len({tuple(o) for o in orders}) > 5
