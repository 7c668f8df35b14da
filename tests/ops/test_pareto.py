"""The front against brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distillery.ops.pareto import front

POINTS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 4), min_size=width, max_size=width), min_size=1, max_size=20)
)


@given(POINTS)
def test_the_front_is_what_no_point_beats(points: list[list[int]]) -> None:
    """property: every kept point is beaten by none, every other one is beaten or equal to a kept one."""
    costs = np.array(points, dtype=float)
    kept = front(costs)

    def beaten(i: int) -> bool:
        return any((costs[j] <= costs[i]).all() and (costs[j] < costs[i]).any() for j in range(len(costs)))

    expected = {tuple(costs[i]) for i in range(len(costs)) if not beaten(i)}
    assert {tuple(costs[i]) for i in kept} == expected
    assert len(kept) == len(expected)
    assert all(points.index(points[i]) == i for i in kept)  # of equal points the first
    assert (np.diff(costs[kept][:, 0]) >= 0).all()
