"""Stacking against scikit-learn. M members, N rows, C classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from distillery.ops.pooling import pool_logits
from distillery.weightings import WEIGHTINGS

SEEDS = st.integers(0, 999)
stacking = WEIGHTINGS["stacking"]


@pytest.mark.parametrize("classes", [2, 3, 5])
@settings(max_examples=8)
@given(seed=SEEDS)
def test_the_map_is_scikit_learns_regression(votes: Any, classes: int, seed: int) -> None:
    """reference: on rows not seen, predict_proba of a regression on centred log-probabilities, built by hand."""
    probs, labels = votes(seed, 3, 120, classes)
    logs = np.log(probs)
    inputs = np.hstack(list(logs - logs.mean(-1, keepdims=True)))
    model = LogisticRegression(C=0.1, max_iter=1000).fit(inputs[:80], labels[:80])
    linear_map = stacking(probs[:, :80], labels[:80], "logits", strength=10.0)
    found = softmax(pool_logits(logs[:, 80:], linear_map, "logits"), axis=-1)
    np.testing.assert_allclose(found, model.predict_proba(inputs[80:]), atol=1e-3)


def test_what_a_member_adds_to_all_classes_does_not_matter(votes: Any) -> None:
    """property: raw logits give what log-probabilities give, though they differ by a number per row."""
    probs, labels = votes(0)
    linear_map = stacking(probs, labels, "logits")
    shifted = np.log(probs) + np.random.default_rng(0).normal(0, 9, (4, 60, 1))
    found = pool_logits(shifted, linear_map, "logits")
    np.testing.assert_allclose(found, pool_logits(np.log(probs), linear_map, "logits"), atol=1e-9)
    blocks = linear_map[:-1].reshape(4, 3, 3)
    np.testing.assert_allclose(blocks.sum(1), 0, atol=1e-12)


def test_cross_validation_takes_one_of_the_grid(votes: Any) -> None:
    """golden: the strongest penalty for members that know nothing, a weaker one for many rows with much to learn."""
    probs, labels = votes(1, 3, 150, skill=0.0)
    assert np.array_equal(stacking(probs, labels, "logits"), stacking(probs, labels, "logits", strength=100.0))
    probs, labels = votes(1, 3, 1500, skill=2.0)
    swapped = probs[:, :, [1, 2, 0]]  # members that mean another class than they say
    found = stacking(swapped, labels, "logits")
    assert not np.allclose(found, stacking(swapped, labels, "logits", strength=100.0))


def test_it_learns_what_no_weights_can(votes: Any, nll: Any) -> None:
    """golden: members that swap two classes are put right, which no weights on the simplex do."""
    probs, labels = votes(2, 3, 600, skill=2.0)
    swapped = probs[:, :, [0, 2, 1]]
    by_weights = WEIGHTINGS["convex"](swapped, labels, "logits", shrinkage=0)
    assert nll(swapped, labels, stacking(swapped, labels, "logits"), "logits") < 0.5
    assert nll(swapped, labels, by_weights, "logits") > 1


def test_a_class_that_no_row_has_keeps_the_members_mean(votes: Any) -> None:
    """golden: its logit is the mean of the members' centred log-probabilities; it can still win."""
    probs, labels = votes(3)
    linear_map = stacking(probs, np.minimum(labels, 1), "logits")
    logs = np.log(probs)
    found = pool_logits(logs, linear_map, "logits")[:, 2]
    np.testing.assert_allclose(found, (logs - logs.mean(-1, keepdims=True))[:, :, 2].mean(0), atol=1e-12)
