"""Images moved and mirrored: four ways to the same pixels."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from distillery.ops import images as pixels


@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.sampled_from([np.uint8, float]))
def test_every_way_is_the_clamped_index(seed: int, height: int, width: int, reach: int, kind: type) -> None:
    """reference: pixel (y, x) comes from (y + down, x + right), cut off at the edges; then the mirror."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (4, 2, height, width)).astype(kind)
    images.flags.writeable = False
    top, left = generator.integers(0, 2 * reach + 1, (2, 4))
    which = generator.random(4) < 0.5
    expected = np.empty_like(images)
    for index, (down, right) in enumerate(zip(top - reach, left - reach, strict=True)):
        rows, columns = (np.clip(np.arange(n) + d, 0, n - 1) for n, d in ((height, down), (width, right)))
        expected[index] = images[index][:, rows][..., columns]
    found = pixels.shift_images(images, top, left, reach)
    assert found.dtype == kind and found.flags.writeable and np.array_equal(found, expected)
    tensors = torch.from_numpy(images.copy()), torch.from_numpy(top), torch.from_numpy(left)
    if height == width:
        assert np.array_equal(pixels._moved_anywhere(*tensors, reach).numpy(), expected)
    assert np.array_equal(pixels.moved_tensor(*tensors, reach).numpy(), expected)
    expected[which] = expected[which][..., ::-1]
    pixels.flip_(found, which)
    assert np.array_equal(found, expected)
    out, images = np.full(images.shape, np.nan, np.float32), images.copy()
    for index in range(4):
        y, x = int(top[index]) - reach, int(left[index]) - reach
        y, x = (max(1 - n, min(n - 1, d)) for n, d in ((height, y), (width, x)))  # as far as a window still sees some
        pixels.place(images[index], y, x, bool(which[index]), out[index])
    assert np.array_equal(out, expected.astype(np.float32))
