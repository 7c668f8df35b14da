"""Counter-based random numbers: functions of what they are for, and as random as others."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from distillery.ops.counter_rng import CounterRNG

ROWS = np.arange(20_000)
ZEROS = np.zeros_like(ROWS)


def test_the_first_draws_are_splitmix64s() -> None:
    """golden: row r, view 0, draw 0 under key 0 is output r of SplitMix64 from seed 0, its upper 53 bits."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    found = CounterRNG(np.arange(3), np.zeros(3, np.int64)).uniform(0)
    assert found.tolist() == [(value >> 11) / 2**53 for value in published]


@given(st.permutations(range(9)), st.integers(0, 2**40), st.integers(0, 2**30), st.integers(0, 50), st.integers(0, 99))
def test_order_and_company_do_not_matter(order: list[int], first: int, number: int, draw: int, key: int) -> None:
    """property: a row's draw is the same alone, among others, in any order, and asked for in any way."""
    rows, numbers = first + np.arange(9), number + np.arange(9) % 3
    together = CounterRNG(rows, numbers, key)
    shuffled = CounterRNG(rows[order], numbers[order], key)
    alone = CounterRNG(rows[4:5], numbers[4:5], key)
    for values in (lambda d: d.uniform(draw), lambda d: d.normals(draw, 3), lambda d: d.below(draw, 17)):
        assert np.array_equal(values(shuffled), values(together)[order])
        assert np.array_equal(values(alone), values(together)[4:5])
    many = together.uniforms(draw, 4)
    assert many.shape == (9, 4) and np.array_equal(many[:, 3], together.uniform(draw + 3))


@pytest.mark.parametrize("start", [0, 10**9])
@pytest.mark.parametrize("along", ["rows", "numbers", "draws", "keys"])
def test_draws_are_uniform_and_normal(along: str, start: int) -> None:
    """reference: scipy's Kolmogorov-Smirnov test does not tell them from the distributions, along each coordinate."""
    few = start + np.arange(2_000)
    one = np.zeros(1, np.int64)
    if along in ("rows", "numbers"):
        draws = CounterRNG(start + ROWS, ZEROS) if along == "rows" else CounterRNG(ZEROS, start + ROWS)
        uniform, normal = draws.uniform(0), draws.normals(1, 1)[:, 0]
    elif along == "draws":
        uniform, normal = CounterRNG(one, one).uniforms(start, 4_000)[0], CounterRNG(one, one).normals(start, 2_000)[0]
    else:
        uniform = np.concatenate([CounterRNG(one, one, int(k)).uniform(0) for k in few])
        normal = np.concatenate([CounterRNG(one, one, int(k)).normals(1, 1)[:, 0] for k in few])
    assert uniform.min() >= 0 and uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 0.01
    assert stats.kstest(normal, "norm").pvalue > 0.01
    assert abs(normal.std() - 1) < 3 / np.sqrt(2 * len(normal))
    for values in (uniform, normal):
        assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 4 / np.sqrt(len(values))


def test_streams_are_independent() -> None:
    """property: no stream tells another one of a neighbouring key, draw, row or view: correlations vanish."""
    streams = {
        (key, row, number, draw): CounterRNG(ROWS * 4 + row, ZEROS + number, key).uniform(draw)
        for key, row, number, draw in itertools.product(range(2), repeat=4)
    }
    correlation = np.corrcoef(list(streams.values()))
    of_squares = np.corrcoef([(s - 0.5) ** 2 for s in streams.values()])
    off = ~np.eye(len(streams), dtype=bool)
    assert np.abs(correlation[off]).max() < 5 / np.sqrt(len(ROWS))
    assert np.abs(of_squares[off]).max() < 5 / np.sqrt(len(ROWS))
    pairs = CounterRNG(ROWS, ZEROS).normals(0, 2)
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 5 / np.sqrt(len(ROWS))


@pytest.mark.parametrize("keys", [range(12), range(1 << 20, (1 << 20) + 12), range(0, 64 * 12, 64)])
def test_neighbours_do_not_collide(keys: range) -> None:
    """property: all draws of a grid of neighbouring rows, views, draws and keys differ."""
    rows, numbers = (a.ravel() for a in np.meshgrid(np.arange(40), np.arange(20)))
    values = [CounterRNG(rows, numbers, key).uniform(draw) for key in keys for draw in range(40)]
    assert len(np.unique(values)) == 40 * 20 * 40 * 12


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_whole_numbers_are_equally_likely(limit: int) -> None:
    """reference: a chi-square test against equal shares; the ends are 0 and `limit` - 1."""
    found = CounterRNG(ROWS, ZEROS, 3).below(5, limit)
    assert found.dtype == np.int64 and found.min() == 0 and found.max() == limit - 1
    if limit > 1:
        assert stats.chisquare(np.bincount(found)).pvalue > 0.01
