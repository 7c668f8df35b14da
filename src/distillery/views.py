"""Views: deterministic augmentations, so that the teachers can label exactly the images that the student will see.

View v of a row is a pure function of (row id, v, settings): the number of workers, the order of rows and a resumed run
change nothing, and nothing has to be stored but the number. View 0 is the image itself.
"""

from __future__ import annotations

import numpy as np

from distillery.config import Augment

MIX = np.uint64(0x9E3779B97F4A7C15)


def view(images: np.ndarray, rows: np.ndarray, number: int, augment: Augment) -> np.ndarray:
    """View `number` of images [B, channels, S, S], which are the rows [B] of the source; same type and shape.

    Moved by whole pixels up to ``augment.shift`` of the side (edges repeated), and mirrored where ``augment.flip`` and
    the row's draw say so.
    """
    if number == 0:
        return images
    side = images.shape[-1]
    reach = round(augment.shift * side)
    top, left = (np.floor(_uniform(rows, number, k) * (2 * reach + 1)).astype(np.int64) - reach for k in (0, 1))
    place = np.arange(side)
    rows_of = np.clip(place + top[:, None], 0, side - 1)
    columns_of = np.clip(place + left[:, None], 0, side - 1)
    if augment.flip:
        mirrored = _uniform(rows, number, 2) < 0.5
        columns_of = np.where(mirrored[:, None], columns_of[:, ::-1], columns_of)
    picture = np.arange(len(images))[:, None, None]
    moved = images.transpose(0, 2, 3, 1)[picture, rows_of[:, :, None], columns_of[:, None, :]]
    return np.ascontiguousarray(moved.transpose(0, 3, 1, 2))


def _uniform(rows: np.ndarray, number: int, draw: int) -> np.ndarray:
    """A number in [0, 1) for each row [B]: SplitMix64 (Steele, Lea and Flood 2014) of (row, view, draw)."""
    with np.errstate(over="ignore"):
        state = rows.astype(np.uint64) * MIX + np.uint64(number) * np.uint64(0xD1342543DE82EF95) + np.uint64(draw)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = ((state + MIX) ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)).astype(np.float64) / float(1 << 53)
