"""Convex weights against scipy's optimisers, and their shrinkage. M members, N rows, C classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import softmax

from distillery.weightings import WEIGHTINGS

SEEDS = st.integers(0, 999)
POOL = pytest.mark.parametrize("pool", ["probs", "logits"])
convex = WEIGHTINGS["convex"]


@POOL
@settings(max_examples=15)
@given(seed=SEEDS)
def test_without_a_prior_it_is_the_optimum(votes: Any, nll: Any, pool: str, seed: int) -> None:
    """reference: the NLL of scipy's SLSQP on the simplex within 1e-4, and never above uniform weights' NLL."""
    probs, labels = votes(seed)
    found = nll(probs, labels, convex(probs, labels, pool, shrinkage=0), pool)
    optimum = minimize(
        lambda w: nll(probs, labels, np.maximum(w, 0), pool),
        np.full(4, 1 / 4),
        method="SLSQP",
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-10, "maxiter": 500},
    )
    assert abs(found - optimum.fun) < 1e-4
    assert found <= nll(probs, labels, np.full(4, 1 / 4), pool) + 1e-9


@POOL
@settings(max_examples=15)
@given(seed=SEEDS, shrinkage=st.sampled_from([1.0, 10.0, 100.0]))
def test_with_a_prior_it_is_the_optimum(votes: Any, nll: Any, pool: str, seed: int, shrinkage: float) -> None:
    """reference: the penalised objective's minimum by scipy's L-BFGS without gradients, within 1e-5."""
    probs, labels = votes(seed)

    def objective(weights: np.ndarray) -> float:
        return float(nll(probs, labels, weights, pool) - shrinkage / (60 * 4) * np.log(4 * weights).sum())

    optimum = minimize(lambda free: objective(softmax(free)), np.zeros(4), method="L-BFGS-B")
    assert objective(convex(probs, labels, pool, shrinkage=shrinkage)) < optimum.fun + 1e-5


@pytest.mark.parametrize("members", [2, 12])
@pytest.mark.parametrize("skill", [None, 1.0])
@given(seed=SEEDS)
def test_the_linear_pool_stops_at_its_certificate(votes: Any, members: int, skill: float | None, seed: int) -> None:
    """reference: no member's mean p_m(y) / p̄(y) is above one by more than 2e-6, so no weights are lower by more."""
    probs, labels = votes(seed, members, 300, skill=skill)
    weights = convex(probs, labels, "probs", shrinkage=0)
    likelihood = probs[:, np.arange(300), labels]
    assert (likelihood / (weights @ likelihood)).mean(1).max() - 1 <= 2e-6


@given(seed=SEEDS, shrinkage=st.sampled_from([3.0, 30.0]))
def test_weights_are_a_fixed_point_of_em(votes: Any, seed: int, shrinkage: float) -> None:
    """reference: one more step of expectation-maximisation, by its textbook formula, leaves them where they are."""
    probs, labels = votes(seed)
    weights = convex(probs, labels, "probs", shrinkage=shrinkage, tolerance=1e-9)
    joint = weights[:, None] * probs[:, np.arange(60), labels]
    again = ((joint / joint.sum(0)).sum(1) + shrinkage / 4) / (60 + shrinkage)
    np.testing.assert_allclose(weights, again, atol=1e-4)


@POOL
def test_convex_shrinks_to_uniform(votes: Any, pool: str) -> None:
    """property: the stronger the prior, the nearer to uniform; a very strong one is uniform."""
    probs, labels = votes(1)
    distances = [np.abs(convex(probs, labels, pool, shrinkage=s) - 1 / 4).max() for s in (0, 10, 100, 1e6)]
    assert distances == sorted(distances, reverse=True) and distances[-1] < 1e-3 < distances[0]


@POOL
def test_members_that_are_all_alike_get_equal_weights(votes: Any, pool: str) -> None:
    """property: where skill is the same, cross-validation takes infinite shrinkage on nearly every sample."""
    distances = []
    for seed in range(20):
        probs, labels = votes(seed, 8, 300, skill=1.0)
        distances.append(np.abs(convex(probs, labels, pool) - 1 / 8).max())
    assert np.mean(np.array(distances) < 1e-12) >= 0.8


@POOL
def test_bad_members_lose_their_weight_by_cross_validation(votes: Any, nll: Any, pool: str) -> None:
    """golden: beside sure members that know nothing, little is shrunk: the NLL is within .01 of no shrinkage."""
    probs, labels = votes(3, 6, 600, skill=2.0)
    probs[3:] = softmax(np.random.default_rng(0).normal(0, 5, (3, 600, 3)), axis=-1)
    found = convex(probs, labels, pool)
    assert found[3:].sum() < 0.05
    least = nll(probs, labels, convex(probs, labels, pool, shrinkage=0), pool)
    assert nll(probs, labels, found, pool) < least + 0.01


def test_a_member_that_knows_all_gets_all(votes: Any) -> None:
    """golden: beside guessing members, one that is always right has nearly the whole weight, the others none."""
    probs, labels = votes(2)
    probs[:] = 1 / 3
    probs[2] = 0.001 + 0.997 * np.eye(3)[labels]
    assert convex(probs, labels, "probs", shrinkage=0).tolist() == [0, 0, 1, 0]
