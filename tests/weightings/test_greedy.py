"""Greedy selection against brute force. M members, N rows, C classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillery.weightings import WEIGHTINGS

SEEDS = st.integers(0, 999)
POOL = pytest.mark.parametrize("pool", ["probs", "logits"])


@POOL
@given(seed=SEEDS)
def test_greedy_picks_the_best_member_first(votes: Any, pool: str, seed: int) -> None:
    """reference: with one round, every bag's pick is the lowest NLL on the bag's rows, by brute force."""
    probs, labels = votes(seed)
    generator = np.random.default_rng(7)
    expected = np.zeros(4)
    for _ in range(5):
        rows = generator.integers(0, len(labels), len(labels))
        scores = [-np.log(probs[m, rows, labels[rows]]).mean() for m in range(4)]
        expected[int(np.argmin(scores))] += 1 / 5
    found = WEIGHTINGS["greedy"](probs, labels, pool, rounds=1, bags=5, seed=7)
    np.testing.assert_allclose(found, expected)


@POOL
@given(seed=SEEDS)
def test_the_second_pick_is_the_best_partner(votes: Any, nll: Any, pool: str, seed: int) -> None:
    """reference: with two rounds in one bag, the better of one member and of all pairs with it, by brute force."""
    probs, labels = votes(seed)
    rows = np.random.default_rng(7).integers(0, len(labels), len(labels))
    each = np.eye(4)
    first = min(each, key=lambda w: nll(probs[:, rows], labels[rows], w, pool))
    tried = [first, *((first + other) / 2 for other in each)]
    expected = min(nll(probs[:, rows], labels[rows], w, pool) for w in tried)
    found = WEIGHTINGS["greedy"](probs, labels, pool, rounds=2, bags=1, seed=7)
    assert nll(probs[:, rows], labels[rows], found, pool) == pytest.approx(expected)


def test_a_member_that_knows_all_gets_all(votes: Any) -> None:
    """golden: beside guessing members, one that is always right has nearly the whole weight."""
    probs, labels = votes(2)
    probs[:] = 1 / 3
    probs[2] = 0.001 + 0.997 * np.eye(3)[labels]
    assert WEIGHTINGS["greedy"](probs, labels, "probs")[2] > 0.99
