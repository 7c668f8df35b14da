"""Views of table rows: categories stay valid, numbers keep their distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from distillery.errors import InputError
from distillery.ops.counter_rng import CounterRNG
from distillery.views import VIEWS, Pool

GENERATOR = np.random.default_rng(1)
COLUMNS = np.array([0, 1, 0, 2, 2, 3, 3, 3])  # two numbers, a mark for the first, categories of 2 and 3
NUMERIC = np.arange(8) < 2
COUNT = 4_000


def random_rows(count: int) -> np.ndarray:
    """Encoded rows: numbers, a mark, one-hot categories; a fifth of the last ones is unknown, all zero."""
    hot = [np.eye(n + 1, n)[GENERATOR.integers(0, n + unknown, count)] for n, unknown in ((2, 0), (3, 1))]
    mark = GENERATOR.random((count, 1)) < 0.3
    return np.concatenate([GENERATOR.normal(size=(count, 2)), mark, *hot], axis=1).astype(np.float32)


POOL = Pool(random_rows(60), np.arange(10, 50), COLUMNS, NUMERIC)
INPUTS = random_rows(COUNT)


def viewed(name: str, pool: Pool = POOL, inputs: np.ndarray = INPUTS, **options: Any) -> np.ndarray:
    """One view of every row."""
    draws = CounterRNG(np.arange(len(inputs)), np.ones(len(inputs), np.int64))
    found: np.ndarray = VIEWS[name](inputs, draws, pool, **options)
    return found


def assert_normal(values: np.ndarray, deviation: float) -> None:
    """Mean 0 and the given deviation, of normal shape and without correlation between columns."""
    assert stats.kstest((values / deviation).ravel(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(values.T)[0, 1]) < 4 / np.sqrt(len(values))


@pytest.mark.parametrize("size", [0.05, 0.3])
def test_noise_moves_numbers_alone(size: float) -> None:
    """reference: scipy's test finds normal numbers of the size asked for; marks and categories are as before."""
    added = viewed("noise", size=size) - INPUTS
    assert not added[:, ~NUMERIC].any()
    assert_normal(added[:, NUMERIC], size)
    assert np.array_equal(viewed("noise", size=0.0), INPUTS)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_spunge_takes_whole_columns(share: float) -> None:
    """property: each column's features are the row's or one training row's; replaced columns are the share, each
    on its own; numbers and their marks move together."""
    found = viewed("spunge", columns=share, noise=0.0)
    partners = POOL.inputs[POOL.rows]
    replaced = []
    for column in range(4):
        features = np.flatnonzero(np.equal(COLUMNS, column))
        block = found[:, features]
        same = (block == INPUTS[:, features]).all(1)
        other = (block[:, None] == partners[None][..., features]).all(2).any(1)
        assert (same | other).all()
        replaced.append(~same)
    for column in (0, 1):  # a number of its own in every row: a replaced cell is always seen
        assert stats.binomtest(int(replaced[column].sum()), COUNT, share).pvalue > 0.01
    assert abs(np.corrcoef(replaced[0], replaced[1])[0, 1]) < 4 / np.sqrt(COUNT)
    for width in (COLUMNS == 2, COLUMNS == 3):
        assert set(np.unique(found[:, width])) <= {0.0, 1.0} and set(found[:, width].sum(1)) <= {0.0, 1.0}


def test_spunge_takes_every_column_of_another_row() -> None:
    """property: columns of one row come from different training rows, and all training rows serve."""
    found = viewed("spunge", columns=1.0, noise=0.0)
    partners = POOL.inputs[POOL.rows]
    which = [(found[:, [c]] == partners[None, :, c]).argmax(1) for c in (0, 1)]
    assert all(stats.chisquare(np.bincount(w, minlength=40)).pvalue > 0.01 for w in which)
    assert np.mean(which[0] == which[1]) < 0.05
    assert np.array_equal(viewed("spunge", columns=0.0, noise=0.0), INPUTS)


def test_spunge_adds_noise_to_numbers() -> None:
    """reference: with and without noise differ by normal numbers of its size; marks and categories do not."""
    added = viewed("spunge", noise=0.2) - viewed("spunge", noise=0.0)
    assert not added[:, ~NUMERIC].any()
    assert_normal(added[:, NUMERIC], 0.2)


def numbers(rows: np.ndarray, train: np.ndarray | None = None) -> Pool:
    """A pool of numbers alone; all rows are training rows unless told otherwise."""
    train = np.arange(len(rows)) if train is None else train
    return Pool(rows.astype(np.float32), train, np.arange(rows.shape[1]), np.ones(rows.shape[1], bool))


def samples(pool: Pool, **options: Any) -> np.ndarray:
    """Rows that gmm makes; what it is given does not matter."""
    return viewed("gmm", pool, np.zeros((20_000, pool.inputs.shape[1]), np.float32), **options)


@pytest.mark.parametrize("components", [1, 16])
def test_gmm_has_the_moments_of_the_training_rows(components: int) -> None:
    """reference: mean and covariance of many samples by numpy; rows outside of train have no say."""
    generator = np.random.default_rng(2)
    root = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [-0.5, 0.3, 0.4]])
    rows = generator.normal(size=(600, 3)) @ root.T + [1.0, -2.0, 0.5]
    rows[500:] += 100
    pool = numbers(rows, np.arange(500))
    made = samples(pool, components=components)
    np.testing.assert_allclose(made.mean(0), rows[:500].mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(made.T), np.cov(rows[:500].T), atol=0.05)
    assert np.array_equal(viewed("gmm", pool, np.ones((50, 3), np.float32), components=components), made[:50])


def test_gmm_finds_groups() -> None:
    """property: two groups keep their shares and the gap between them; one component alone fills it."""
    generator = np.random.default_rng(2)
    centres = np.where(generator.random(600) < 0.3, -5.0, 5.0)
    rows = np.stack([centres, centres * generator.choice([-1, 1], 600)], axis=1) + generator.normal(size=(600, 2))
    pool = numbers(rows)
    made = samples(pool)
    assert np.mean(made[:, 0] < 0) == pytest.approx(np.mean(centres < 0), abs=0.02)
    assert np.mean(np.abs(made) < 1.5) < 0.005 < 0.1 < np.mean(np.abs(samples(pool, components=1)[:, 0]) < 1.5)


def test_gmm_takes_few_rows() -> None:
    """property: with more columns than training rows there is one component, and its samples are finite."""
    generator = np.random.default_rng(2)
    made = samples(numbers(generator.normal(size=(5, 12))))
    assert np.isfinite(made).all() and made.std(0).min() > 0


def test_gmm_refuses_categories() -> None:
    """contract: a table that is not all numbers is an InputError that names what takes it."""
    with pytest.raises(InputError, match=r"view 'gmm': expected a table of numbers, .*'spunge'"):
        viewed("gmm")
