"""A few values that stand for a column of numbers, also one with spikes."""

from __future__ import annotations

import numpy as np


def quantile_bin_edges(values: np.ndarray, counts: np.ndarray, number: int) -> np.ndarray:
    """Places, ascending, of at most `number` distinct `values` [V] (ascending) that occur `counts` [V] times.

    A value that holds more than an equal share of the rows stands for itself; the others share what is left of the
    number by equal mass, smallest and largest included. Quantiles alone would spend themselves on the spikes.
    """
    if len(values) <= number:
        return np.arange(len(values))
    heavy = np.zeros(len(values), bool)
    heavy[[0, -1]] = True
    while True:
        left = number - heavy.sum()
        more = ~heavy & (counts >= counts[~heavy].sum() / max(left, 1))
        if left <= 0 or not more.any():
            break
        heavy[np.flatnonzero(more)[np.argsort(-counts[more], kind="stable")[:left]]] = True
    if left > 0:
        light = np.flatnonzero(~heavy)
        mass = np.cumsum(counts[light])
        wanted = (np.arange(left) + 0.5) / left * mass[-1]
        heavy[light[np.searchsorted(mass, wanted)]] = True
    return np.flatnonzero(heavy)
