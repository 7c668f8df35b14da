"""Pooling against plain loops, and the one temperature after it. M members, N rows, C classes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from distillery.ops.metrics import row_nll
from distillery.ops.pooling import Pooling, fit_temperature, influence, pool_log_probs, pool_logits, pooled_blocks

SEEDS = st.integers(0, 999)
POOL = pytest.mark.parametrize("pool", ["probs", "logits"])


def votes(seed: int, rows: int = 10) -> np.ndarray:
    """Logits [3, N, 3]."""
    return np.random.default_rng(seed).normal(0, 2, (3, rows, 3)).astype(np.float32)


def pooled_by_loops(logits: np.ndarray, weights: np.ndarray, pool: str) -> np.ndarray:
    """Probabilities of the ensemble, one cell at a time."""
    result = np.zeros(logits.shape[1:])
    for row in range(logits.shape[1]):
        for member, weight in enumerate(weights):
            probs = np.exp(logits[member, row]) / np.exp(logits[member, row]).sum()
            result[row] += weight * (probs if pool == "probs" else np.log(probs))
        if pool == "logits":
            result[row] = np.exp(result[row]) / np.exp(result[row]).sum()
    return result


@POOL
@given(seed=SEEDS)
def test_pools_are_means(pool: str, seed: int) -> None:
    """reference: the weighted mean of probabilities, or of log-probabilities made to sum to one, by loops."""
    logits, weights = votes(seed), np.random.default_rng(seed).dirichlet([1, 1, 1])
    found = softmax(pool_logits(logits, weights, pool), axis=-1)
    np.testing.assert_allclose(found, pooled_by_loops(logits.astype(np.float64), weights, pool), atol=1e-12)


@given(seed=SEEDS)
def test_a_linear_map_sees_the_members_side_by_side(seed: int) -> None:
    """reference: each logit as a sum over members and classes, by loops; the last row of the map is the bias."""
    logits, linear_map = votes(seed), np.random.default_rng(seed).normal(size=(10, 3))
    logs = log_softmax(logits.astype(np.float64), axis=-1)
    found = pool_logits(logits, linear_map, "logits")
    for row in range(10):
        for c in range(3):
            expected = sum(logs[m, row, k] * linear_map[3 * m + k, c] for m in range(3) for k in range(3))
            assert found[row, c] == pytest.approx(expected + linear_map[-1, c])


@POOL
def test_members_of_weight_zero_do_not_count(pool: str) -> None:
    """property: not even where their logits are no numbers; the probability pool's logits are log-probabilities."""
    logits = votes(0)
    expected = pool_logits(logits[:2], np.array([0.3, 0.7]), pool)
    logits[2] = np.nan
    assert np.array_equal(pool_logits(logits, np.array([0.3, 0.7, 0.0]), pool), expected)
    if pool == "probs":
        np.testing.assert_allclose(np.exp(expected).sum(-1), 1)


@POOL
def test_a_pooling_narrowed_to_its_active_members_is_the_same(pool: str) -> None:
    """property: logits of the active members alone give what logits of all members give; temperature divides."""
    logits, pooling = votes(1), Pooling(np.array([0.4, 0.0, 0.6]), pool, 2.0)
    assert pooling.active.tolist() == [0, 2]
    assert np.array_equal(pooling.narrowed().apply(logits[[0, 2]]), pooling.apply(logits))
    np.testing.assert_allclose(pooling.apply(logits), pool_logits(logits, pooling.weights, pool) / 2)


def test_a_linear_map_needs_every_member() -> None:
    """property: all members of a map are active, whatever its coefficients."""
    pooling = Pooling(np.zeros((3 * 4 + 1, 4)), "logits")
    assert pooling.active.tolist() == [0, 1, 2] and pooling.narrowed() is pooling


def test_influence_is_the_size_of_a_members_block() -> None:
    """golden: blocks of size 1 and 3 share the whole as 1 to 3, the bias does not count, and nothing is uniform."""
    linear_map = np.vstack([np.full((2, 2), -1.0), np.full((2, 2), 3.0), np.full((1, 2), 9.0)])
    assert influence(linear_map).tolist() == [0.25, 0.75]
    assert influence(np.zeros((5, 2))).tolist() == [0.5, 0.5]


@given(seed=SEEDS, scale=st.floats(0.1, 20))
def test_a_temperature_never_worsens_the_rows_it_is_fitted_on(seed: int, scale: float) -> None:
    """property: in-sample, the NLL with the temperature is at most the NLL without; it stays within its bounds."""
    generator = np.random.default_rng(seed)
    logits, labels = scale * generator.normal(size=(30, 4)), generator.integers(0, 4, 30)
    temperature = fit_temperature(logits, labels)
    assert 0.2 <= temperature <= 5
    assert row_nll(logits / temperature, labels).mean() <= row_nll(logits, labels).mean()


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_logits_too_sharp_is_found(true: float) -> None:
    """reference: labels drawn from softmax(z), logits told as T z: the fitted temperature is T."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1.5, (20_000, 3))
    labels = (generator.random((20_000, 1)) > softmax(logits, axis=-1).cumsum(-1)).sum(-1)
    assert fit_temperature(true * logits, labels) == pytest.approx(true, rel=0.03)


@POOL
def test_blocks_are_the_rows_that_are_wanted(pool: str) -> None:
    """property: rows in any order, more than a block of them, are those of all rows, to the last digit."""
    logits, weights = np.random.default_rng(0).normal(0, 5, (3, 60, 4000)).astype(np.float32), np.array([0.2, 0, 0.8])
    rows = np.random.default_rng(1).integers(0, 60, 50)
    expected, found = pool_logits(logits, weights, pool), np.full((50, 4000), np.nan)
    for part, block in pooled_blocks(logits, weights, pool, rows):
        assert len(block) < 50
        found[part] = block
    assert np.array_equal(found, expected[rows])


def test_a_member_without_weight_on_a_row_does_not_hide_the_others() -> None:
    """reference: log(.5 exp(-900) + .5 exp(-901)), though a member of weight zero on this row gives exp(0)."""
    logs = np.array([[[0.0]], [[-900.0]], [[-901.0]]])
    found = pool_log_probs(logs, np.array([[0.0], [0.5], [0.5]]), "probs")
    assert found[0, 0] == pytest.approx(-900 + np.log((1 + np.exp(-1)) / 2))


@POOL
def test_pooling_needs_little_more_memory_than_its_result(pool: str) -> None:
    """property: beside the 6.4 MB that come out, less than 8 MB, where all log-probabilities would take 77 MB."""
    logits = np.random.default_rng(0).normal(size=(12, 800, 1000)).astype(np.float32)
    tracemalloc.start()
    pool_logits(logits, np.full(12, 1 / 12), pool)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6.4e6 + 8e6
