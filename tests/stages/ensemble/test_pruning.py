"""Pruning: what is dropped, what is kept, and what it costs. M members, N rows, C classes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from distillery.ops.metrics import row_nll
from distillery.ops.pooling import fit_temperature, pool_logits
from distillery.stages.ensemble.pruning import Fit, Judge, Part, Pruned, prune, upper
from distillery.weightings import WEIGHTINGS, deal

POOL = pytest.mark.parametrize("pool", ["probs", "logits"])


def votes(seed: int, skill: tuple[float, ...], rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Logits [M, N, 3] of members whose signal is as strong as `skill` says, and labels [N]."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, rows)
    signal = np.array(skill)[:, None, None] * np.eye(3)[labels]
    return signal + generator.normal(size=signal.shape), labels


def fitter(name: str, logits: np.ndarray, labels: np.ndarray, pool: str, **options: float) -> Fit:
    """Weights by a registered weighting, on all rows and cross-fitted in three folds."""
    probs, folds = softmax(logits, axis=-1), deal(labels, 3)

    def fit(members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        def on(rows: np.ndarray) -> np.ndarray:
            return np.asarray(WEIGHTINGS[name](probs[members][:, rows], labels[rows], pool, **options))

        return on(folds >= 0), np.stack([on(folds != k) for k in range(3)])

    return fit


def pruned(logits: np.ndarray, labels: np.ndarray, pool: str, fit: Fit, tolerance: float = 1e-3) -> Pruned:
    """What pruning does to these votes, without a temperature."""
    return prune(Judge(logits, labels, deal(labels, 3), pool), fit, tolerance=tolerance)


@POOL
def test_of_copies_one_is_enough(pool: str) -> None:
    """golden: without a loss of NLL all copies but one go."""
    logits, labels = votes(0, (1.5,))
    copies = np.repeat(logits, 6, axis=0)
    found = pruned(copies, labels, pool, fitter("uniform", copies, labels, pool))
    assert len(found.part.kept) == 1
    assert found.nll_after == pytest.approx(found.nll_before) and found.loss_high < 1e-9


@POOL
def test_a_member_without_weight_goes_first(pool: str) -> None:
    """golden: beside two able members, one that is sure and knows nothing has next to no weight and is dropped."""
    logits, labels = votes(1, (2.0, 2.0, 0.0))
    logits[2] *= 5
    found = pruned(logits, labels, pool, fitter("convex", logits, labels, pool, shrinkage=0))
    assert found.part.kept.tolist() == [0, 1]


@POOL
def test_members_that_are_missed_stay(pool: str) -> None:
    """property: of independent able members none can go; with a tolerance without end only one is left."""
    logits, labels = votes(2, (1.0,) * 4)
    fit = fitter("uniform", logits, labels, pool)
    assert pruned(logits, labels, pool, fit).part.kept.tolist() == [0, 1, 2, 3]
    assert len(pruned(logits, labels, pool, fit, tolerance=10).part.kept) == 1


@POOL
@pytest.mark.parametrize("name", ["uniform", "convex"])
def test_the_nll_is_that_of_fits_that_had_not_seen_the_row(name: str, pool: str) -> None:
    """reference: both figures by pooling fold by fold; weights are scaled or fitted, whichever is lower."""
    logits, labels = votes(3, (1.5, 1.5, 1.4, 1.5, 0.3))
    fit, folds = fitter(name, logits, labels, pool), deal(labels, 3)
    found = pruned(logits, labels, pool, fit, tolerance=0.05)
    assert 0 < len(found.part.kept) < 5

    def by_folds(members: np.ndarray, by_fold: np.ndarray) -> np.ndarray:
        losses = np.empty(len(labels))
        for fold, weights in enumerate(by_fold):
            held = folds == fold
            losses[held] = row_nll(pool_logits(logits[members][:, held], weights, pool), labels[held])
        return losses

    everyone, kept = np.arange(5), found.part.kept
    before, after = by_folds(everyone, fit(everyone)[1]), by_folds(kept, found.part.fold_weights)
    assert (found.nll_before, found.nll_after) == pytest.approx((before.mean(), after.mean()))
    assert found.nll_after <= by_folds(kept, fit(kept)[1]).mean() + 1e-12
    assert found.loss_high == pytest.approx(upper(after - before)) and found.loss_high < 0.05


def test_weights_of_the_rest_are_scaled_up() -> None:
    """golden: without the second of three the others share the whole; None where a fold gave it all the weight."""
    part = Part(np.array([2, 5, 7]), np.array([0.2, 0.5, 0.3]), np.array([[0.1, 0.6, 0.3], [0.2, 0.0, 0.8]]))
    rest = part.without([1])
    assert rest is not None and rest.kept.tolist() == [2, 7] and rest.weights.tolist() == [0.4, 0.6]
    np.testing.assert_allclose(rest.fold_weights, [[0.25, 0.75], [0.2, 0.8]])
    assert Part(np.arange(2), np.array([0.5, 0.5]), np.array([[0.0, 1.0]])).without([1]) is None


def test_with_a_temperature_a_sharper_pool_is_no_better_pool() -> None:
    """golden: timid members that err apart: fewer of them are sharper, but with a temperature all are wanted."""
    logits, labels = votes(5, (3.0,) * 5)
    logits, fit = logits / 8, fitter("uniform", logits / 8, labels, "probs")
    plain = pruned(logits, labels, "probs", fit)
    calibrated = prune(Judge(logits, labels, deal(labels, 3), "probs", calibrated=True), fit, tolerance=1e-3)
    assert len(plain.part.kept) < len(calibrated.part.kept) == 5
    assert calibrated.nll_before < plain.nll_before


def test_of_many_equal_members_none_is_small() -> None:
    """golden: sixty members with a sixtieth each are above the least weight, and differ too much to go."""
    logits, labels = votes(4, (0.2,) * 60, rows=60)
    assert len(pruned(logits, labels, "probs", fitter("uniform", logits, labels, "probs"), -1).part.kept) == 60


def test_the_bound_is_where_the_bootstraps_lies() -> None:
    """reference: the 95th percentile of the means of ten thousand resamples, within a tenth of their spread."""
    generator = np.random.default_rng(0)
    difference = generator.exponential(size=200) - 0.9
    means = difference[generator.integers(0, 200, (10_000, 200))].mean(1)
    assert upper(difference) == pytest.approx(np.quantile(means, 0.95), abs=0.1 * means.std())


@POOL
@pytest.mark.parametrize("calibrated", [False, True])
def test_losses_are_those_of_all_rows_at_once(pool: str, calibrated: bool) -> None:
    """reference: pooling fold by fold and one temperature after it, on rows that are more than a block."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3000, 60)
    logits = (2 * generator.normal(size=(3, 60, 3000)) + 6 * np.eye(3000)[labels]).astype(np.float32)
    folds, by_fold = deal(labels, 3), np.array([[0.5, 0.5], [1.0, 0.0], [0.1, 0.9]])
    pooled = np.empty((60, 3000))
    for fold, weights in enumerate(by_fold):
        pooled[folds == fold] = pool_logits(logits[[0, 2]][:, folds == fold], weights, pool)
    temperature = fit_temperature(pooled, labels) if calibrated else 1.0
    part = Part(np.array([0, 2]), by_fold.mean(0), by_fold)
    found = Judge(logits, labels, folds, pool, calibrated).losses(part)
    np.testing.assert_allclose(found, row_nll(pooled / temperature, labels), rtol=1e-9)
