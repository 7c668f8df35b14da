"""Weightings: what every one of them promises, and the optimum by scipy. M members, N rows, C classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from distillery.ensemble import pool_logits
from distillery.weightings import WEIGHTINGS

POOLS = ("probs", "logits")
SEEDS = st.integers(0, 999)
EACH = pytest.mark.parametrize("name", WEIGHTINGS.names())
POOL = pytest.mark.parametrize("pool", POOLS)


def votes(seed: int, members: int = 4, rows: int = 60, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [M, N, C] of members of different skill, and labels [N]."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    skill = generator.uniform(0.2, 2.0, (members, 1, 1))
    logits = generator.normal(size=(members, rows, classes)) + skill * np.eye(classes)[labels]
    return softmax(logits, axis=-1), labels


def nll(probs: np.ndarray, labels: np.ndarray, weights: np.ndarray, pool: str) -> float:
    """Negative log-likelihood of the pooled members."""
    pooled = log_softmax(pool_logits(np.log(probs), weights, pool), axis=-1)
    return float(-pooled[np.arange(len(labels)), labels].mean())


def by_slsqp(probs: np.ndarray, labels: np.ndarray, pool: str) -> float:
    """The lowest NLL on the simplex by scipy's constrained optimiser."""
    members = len(probs)
    found = minimize(
        lambda w: nll(probs, labels, np.maximum(w, 0), pool),
        np.full(members, 1 / members),
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-10, "maxiter": 500},
    )
    return float(found.fun)


@EACH
@POOL
@settings(max_examples=10)
@given(seed=SEEDS, members=st.integers(1, 5))
def test_weights_are_on_the_simplex(name: str, pool: str, seed: int, members: int) -> None:
    """contract: as many weights as members, none below zero, one in sum, and the same when asked again."""
    probs, labels = votes(seed, members)
    weights = WEIGHTINGS[name](probs, labels, pool)
    assert weights.shape == (members,) and (weights >= 0).all() and np.isclose(weights.sum(), 1)
    assert np.array_equal(weights, WEIGHTINGS[name](probs, labels, pool))


@EACH
@POOL
def test_members_without_a_chance_on_some_rows_do_no_harm(name: str, pool: str) -> None:
    """contract: with probabilities of zero and one weights are finite; always right weighs no less than never."""
    probs, labels = votes(0)
    probs[0], probs[1] = np.eye(3)[labels], np.eye(3)[(labels + 1) % 3]
    weights = WEIGHTINGS[name](probs, labels, pool)
    assert np.isfinite(weights).all() and weights[0] >= weights[1]


@pytest.mark.parametrize("name", ["uniform", "convex"])
@POOL
@given(seed=SEEDS)
def test_the_order_of_members_does_not_matter(name: str, pool: str, seed: int) -> None:
    """property: permuted members get permuted weights, and members that are the same get the same."""
    probs, labels = votes(seed)
    order = np.random.default_rng(seed).permutation(5)
    probs = np.concatenate([probs, probs[:1]])
    weights = WEIGHTINGS[name](probs, labels, pool)
    np.testing.assert_allclose(WEIGHTINGS[name](probs[order], labels, pool), weights[order], atol=1e-3)
    assert np.isclose(weights[0], weights[4], atol=1e-3)


@POOL
@given(seed=SEEDS)
def test_convex_finds_the_optimum(pool: str, seed: int) -> None:
    """reference: without a prior, the NLL of scipy's SLSQP within 1e-4, and never above uniform weights' NLL."""
    probs, labels = votes(seed)
    found = nll(probs, labels, WEIGHTINGS["convex"](probs, labels, pool, shrinkage=0), pool)
    assert abs(found - by_slsqp(probs, labels, pool)) < 1e-4
    assert found <= nll(probs, labels, np.full(4, 1 / 4), pool) + 1e-9


@POOL
def test_convex_shrinks_to_uniform(pool: str) -> None:
    """property: the stronger the prior, the nearer to uniform; a very strong one is uniform."""
    probs, labels = votes(1)
    distances = [
        np.abs(WEIGHTINGS["convex"](probs, labels, pool, shrinkage=s) - 1 / 4).max() for s in (0, 10, 100, 1e6)
    ]
    assert distances == sorted(distances, reverse=True) and distances[-1] < 1e-3 < distances[0]


@pytest.mark.parametrize(("name", "options"), [("convex", {"shrinkage": 0}), ("greedy", {})])
def test_a_member_that_knows_all_gets_all(name: str, options: dict[str, float]) -> None:
    """golden: beside guessing members, one that is always right has nearly the whole weight."""
    probs, labels = votes(2)
    probs[:] = 1 / 3
    probs[2] = 0.001 + 0.997 * np.eye(3)[labels]
    assert WEIGHTINGS[name](probs, labels, "probs", **options)[2] > 0.99


@POOL
@given(seed=SEEDS)
def test_greedy_picks_the_best_member_first(pool: str, seed: int) -> None:
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
