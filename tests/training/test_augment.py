"""Changes of images: each on its own, within its bounds, of the image as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import pad

from distillery.config.experiment import Augment
from distillery.training import augment

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 2, 8, 8), np.uint8)


def augmented(images: torch.Tensor, seed: int, **settings: Any) -> torch.Tensor:
    """The images with the changes that are drawn for them."""
    changes = augment.drawn(len(images), images.shape[-1], Augment(**settings), torch.Generator().manual_seed(seed))
    return changes.lit(changes.of(images.clone()))


@given(st.integers(0, 999), st.floats(0, 0.5), st.integers(2, 9))
def test_shift_moves_each_image_as_a_whole(seed: int, share: float, side: int) -> None:
    """reference: every result is a window of the image with its edges repeated, found by trying them all."""
    images = torch.rand(3, 2, side, side, generator=torch.Generator().manual_seed(seed))
    moved = augmented(images, seed, shift=share)
    reach = round(share * side)
    padded = pad(images, (reach,) * 4, mode="replicate")
    places = range(2 * reach + 1)
    for before, after in zip(padded, moved, strict=True):
        windows = [before[:, y : y + side, x : x + side] for y in places for x in places]
        assert any(torch.equal(after, window) for window in windows)


@given(st.integers(0, 999))
def test_flip_mirrors_some_and_is_undone_by_itself(seed: int) -> None:
    """property: each image is itself or its mirror image, and flipping the same ones again gives the first ones."""
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(seed))

    def again(batch: torch.Tensor) -> torch.Tensor:
        return augmented(batch, seed, flip=True)

    assert all(torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(again(images), images, strict=True))
    assert torch.equal(again(again(images)), images)


@given(st.integers(0, 999), st.floats(0.01, 0.99))
def test_light_is_one_factor_per_image_within_its_bounds(seed: int, size: float) -> None:
    """property: a dark image is multiplied by one number between 1 - size and 1 + size; none is brighter than white."""
    dark = 1 + 100 * torch.rand(60, 2, 3, 3, generator=torch.Generator().manual_seed(seed))

    def lit(images: torch.Tensor) -> torch.Tensor:
        return augmented(images, seed, brightness=size)

    factors = (lit(dark) / dark).flatten(1)
    assert (factors - factors[:, :1]).abs().max() < 1e-5
    assert 1 - size - 1e-5 <= factors.min() < 1 - size / 2 and 1 + size / 2 < factors.max() <= 1 + size + 1e-5
    white = torch.full_like(dark, 255)
    torch.testing.assert_close(lit(white), (255 * factors[:, 0].clamp(max=1)).view(-1, 1, 1, 1).expand_as(white))


@pytest.mark.parametrize("settings", [{"shift": 0.25}, {"flip": True}], ids=str)
def test_every_change_is_drawn(settings: dict[str, Any]) -> None:
    """property: over many images, some stay and some change, each on its own."""
    images = torch.from_numpy(IMAGES).float()
    same = [torch.equal(a, b) for a, b in zip(augmented(images, 0, **settings), images, strict=True)]
    assert 0 < sum(same) < len(same)
