"""Streams of batches: who shares one, and that a seed decides what they show. K learners, B rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pretended_cuda import pretended_cuda
from torch import nn

from distillery.config.experiment import Augment, Recipe
from distillery.memory import VARIABLE
from distillery.training import streams
from distillery.training.feed import Inputs
from distillery.training.objectives import Given, Objective
from distillery.training.streams import Streams

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8)
MOVED = Augment(shift=0.25, flip=True, brightness=0.3)


class Items(Objective):
    """What needs the items alone."""

    def of(self, learners: torch.Tensor) -> Items:
        """The same for all."""
        return self

    def gather(self, items: torch.Tensor) -> Given:
        """The items."""
        return (items,)

    def losses(self, logits: torch.Tensor, given: Given) -> torch.Tensor:
        """None are asked for."""
        raise NotImplementedError


class AsTheyAre:
    """Inputs that lie as they are."""

    rows_dim = 1

    def laid_out(self, rows: torch.Tensor, last: float = 1.0) -> torch.Tensor:
        """The same."""
        return rows


def epoch(
    seeds: list[int], augment: Augment, device: str = "cpu", noises: list[float] | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(inputs, items) of the steps of a first epoch."""
    inputs = Inputs(IMAGES, np.arange(20), device)
    recipes = [
        Recipe(batch_size=6, augment=augment.model_copy(update={"noise": noise}))
        for noise in noises or [0.0] * len(seeds)
    ]
    made = Streams(seeds, [inputs] * len(seeds), recipes, nn.Identity(), device)
    steps = made.epoch(1, list(range(len(seeds))), Items(), AsTheyAre())
    return [(rows.cpu().numpy().copy(), items.cpu().numpy()) for rows, (items,) in steps]


def test_learners_of_one_seed_share_a_stream() -> None:
    """golden: one batch for all where the seeds are alike, else one for each learner, equal where the seed is."""
    assert [rows.shape for rows, _ in epoch([1, 1, 1], Augment())] == [(1, 6, 3, 8, 8)] * 3
    found = epoch([1, 2, 1], Augment())
    assert [rows.shape for rows, _ in found] == [(3, 6, 3, 8, 8)] * 3
    for (rows, items), (alone, _) in zip(found, epoch([1], Augment()), strict=True):
        assert np.array_equal(rows[0], rows[2]) and np.array_equal(rows[0], alone[0])
        assert not np.array_equal(rows[0], rows[1]) and items.shape == (3, 6)
        assert np.array_equal(rows, IMAGES[items])


def test_noise_is_a_learners_own() -> None:
    """property: on a stream that they share, as much as each asks for; none for who asks for none."""
    plain = epoch([3], Augment())
    for (rows, items), (still, _) in zip(epoch([3, 3], Augment(), noises=[0.0, 2.0]), plain, strict=True):
        assert np.array_equal(rows[0], still[0]) and items.shape in ((1, 6), (2, 6))
        assert 1.5 < (rows[1] - still[0]).std() < 2.5


@pytest.mark.parametrize("memory", ["100", "0"], ids=["kept on the GPU", "read by the batch"])
def test_a_seed_shows_the_same_on_all_devices(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: order and augmentation are those of the CPU, bit by bit, block by block."""
    monkeypatch.setenv(VARIABLE, memory)
    for numbers in (1, 1 << 20):
        monkeypatch.setattr(streams, "BLOCK_NUMBERS", numbers)
        expected = epoch([1, 2], MOVED)
        with pretended_cuda():
            found = epoch([1, 2], MOVED, "cuda")
        for (mine, items), (theirs, others) in zip(found, expected, strict=True):
            assert np.array_equal(mine, theirs) and np.array_equal(items, others)
