"""Which rows to take where all of them at once are too many: a sample of them, or one part after another."""

from __future__ import annotations

import math

import numpy as np

SEED = 20260101
PART_BYTES = 64 << 20  # of a part, as float32


def covering_sample(labels_N: np.ndarray, count: int, seed: int = SEED) -> np.ndarray:
    """Places [count] of rows drawn at random, ascending, from every class in proportion and from each at least once.

    Where there are more classes than `count`, some have no row.

    Args:
        labels_N: Classes.
        count: Rows to draw; all of them where there are no more.
        seed: Of the draw.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels_N))
    _, classes, sizes = np.unique(labels_N[shuffled], return_inverse=True, return_counts=True)
    by_class = np.argsort(classes, kind="stable")
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(shuffled), np.int64)
    rank[by_class] = np.arange(len(shuffled)) - starts[classes[by_class]]

    # How much of its class is taken before a row: 0 for the first of each class.
    share = rank / sizes[classes]
    return np.sort(shuffled[np.argsort(share, kind="stable")[:count]])


def in_parts(rows_N: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """`rows_N` in parts of which each takes no more than `PART_BYTES`.

    Args:
        rows_N: Ids or places of rows.
        shape: Of what a row holds.
    """
    size = max(1, PART_BYTES // (4 * math.prod(shape)))
    return [rows_N[start : start + size] for start in range(0, len(rows_N), size)]
