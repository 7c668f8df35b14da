"""The front: the set of points that no other point beats in everything."""

from __future__ import annotations

import numpy as np


def front(costs: np.ndarray) -> list[int]:
    """Indices of the non-dominated rows of `costs` [points, objectives], all minimised, by rising first objective.

    Of equal points the first is kept.
    """
    order = np.lexsort(costs.T[::-1])
    kept: list[int] = []
    for index in order:
        if not any((costs[k] <= costs[index]).all() for k in kept):
            kept.append(int(index))
    return kept
