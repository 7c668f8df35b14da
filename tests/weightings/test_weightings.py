"""Weightings: what every one of them promises, and what they share. M members, N rows, C classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.config.experiment import Weighting
from distillery.weightings import WEIGHTINGS, deal, one_standard_error

SEEDS = st.integers(0, 999)
POOL = pytest.mark.parametrize("pool", ["probs", "logits"])
STACKING = [name for name in WEIGHTINGS.names() if WEIGHTINGS.traits(name).get("stacks")]
EACH = pytest.mark.parametrize(
    ("name", "pool"),
    [
        (name, pool)
        for name in WEIGHTINGS.names()
        for pool in ("probs", "logits")
        if name not in STACKING or pool != "probs"
    ],
)


@EACH
@settings(max_examples=8)
@given(seed=SEEDS, members=st.integers(1, 5))
def test_weights_are_on_the_simplex(votes: Any, name: str, pool: str, seed: int, members: int) -> None:
    """contract: M weights, none below zero, one in sum, or a finite map [M·C + 1, C]; the same when asked again."""
    probs, labels = votes(seed, members)
    found = WEIGHTINGS[name](probs, labels, pool)
    if name in STACKING:
        assert found.shape == (members * 3 + 1, 3) and np.isfinite(found).all()
    else:
        assert found.shape == (members,) and (found >= 0).all() and np.isclose(found.sum(), 1)
    assert np.array_equal(found, WEIGHTINGS[name](probs, labels, pool))


@EACH
def test_members_without_a_chance_on_some_rows_do_no_harm(votes: Any, name: str, pool: str) -> None:
    """contract: with probabilities of zero and one all is finite; always right weighs no less than never."""
    probs, labels = votes(0)
    probs[0], probs[1] = np.eye(3)[labels], np.eye(3)[(labels + 1) % 3]
    found = WEIGHTINGS[name](probs, labels, pool)
    assert np.isfinite(found).all()
    if name not in STACKING:
        assert found[0] >= found[1]


@EACH
def test_classes_that_no_row_has_do_no_harm(votes: Any, name: str, pool: str) -> None:
    """contract: where rows have two of three classes, or one, the result is finite and of the same shape."""
    probs, labels = votes(1)
    for few in (np.minimum(labels, 1), np.zeros_like(labels)):
        found = WEIGHTINGS[name](probs, few, pool)
        assert np.isfinite(found).all() and found.shape[0] == (13 if name in STACKING else 4)


@pytest.mark.parametrize("name", ["uniform", "convex"])
@POOL
@given(seed=SEEDS)
def test_the_order_of_members_does_not_matter(votes: Any, name: str, pool: str, seed: int) -> None:
    """property: permuted members get permuted weights, and members that are the same get the same."""
    probs, labels = votes(seed)
    order = np.random.default_rng(seed).permutation(5)
    probs = np.concatenate([probs, probs[:1]])
    weights = WEIGHTINGS[name](probs, labels, pool)
    np.testing.assert_allclose(WEIGHTINGS[name](probs[order], labels, pool), weights[order], atol=1e-3)
    assert np.isclose(weights[0], weights[4], atol=1e-3)


@pytest.mark.parametrize("name", WEIGHTINGS.names())
def test_the_rows_it_needs_grow_with_what_it_fits(name: str) -> None:
    """contract: the trait min_rows is a whole number of rows that never falls with more members or classes."""
    least = WEIGHTINGS.traits(name)["min_rows"]
    table = np.array([[least(members, classes) for classes in (2, 10)] for members in (1, 3, 12)])
    assert table.dtype.kind == "i" and (np.diff(table, axis=0) >= 0).all() and (np.diff(table, axis=1) >= 0).all()
    assert (least(12, 2) == 0) == (name == "uniform")


@EACH
def test_the_estimate_of_its_time_grows_with_what_it_reads(name: str, pool: str) -> None:
    """contract: the trait seconds is a number that never falls with more members, classes or rows."""
    options = Weighting(name=name).options
    seconds = WEIGHTINGS.traits(name)["seconds"]
    sizes = [(members, classes, rows) for members in (2, 8) for classes in (3, 90) for rows in (50, 5000)]
    table = np.array([seconds(pool, *size, **options) for size in sizes]).reshape(2, 2, 2)
    assert all((np.diff(table, axis=axis) >= 0).all() for axis in range(3)) and (table >= 0).all()
    assert table[0, 0, 0] < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "convex", "shrinkage": -1}, "shrinkage: expected 'cv' or a number of rows >= 0, got -1.0"),
        ({"name": "convex", "shrinkage": "cw"}, "shrinkage"),
        ({"name": "stacking", "strength": 0}, "strength: expected 'cv' or a number > 0, got 0.0"),
    ],
)
def test_strengths_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    """contract: the option, what is allowed and what was given are named."""
    with pytest.raises(ValueError, match=message):
        Weighting(**options)


@given(seed=SEEDS, folds=st.integers(2, 6))
def test_folds_hold_each_class_alike(seed: int, folds: int) -> None:
    """property: of each class, and in all, two folds differ by one row at most."""
    labels = np.random.default_rng(seed).integers(0, 3, 50)
    found = deal(labels, folds)
    assert np.ptp(np.bincount(found, minlength=folds)) <= 1
    assert all(np.ptp(np.bincount(found[labels == c], minlength=folds)) <= 1 for c in range(3))


def test_one_standard_error_is_that_of_the_difference() -> None:
    """golden: hard rows that all settings share do not blur a difference of .1 that every row shows."""
    generator = np.random.default_rng(0)
    shared = generator.exponential(5, 100)
    noise = generator.normal(0, 0.1, 100)
    losses = np.stack([shared + 0.05, shared, shared + noise - noise.mean() + 0.009, shared + 0.1 + noise])
    # by the error of the NLL itself, .5, all would pass; of the differences, .01, only the third does
    assert one_standard_error(losses) == 2
    assert one_standard_error(losses[:2]) == 1 and one_standard_error(np.stack([shared] * 3)) == 2
