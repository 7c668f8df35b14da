"""Samples and parts of rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distillery.ops import sampling


@given(st.integers(0, 9999), st.integers(1, 30), st.integers(0, 250))
def test_a_sample_is_of_every_class(seed: int, classes: int, count: int) -> None:
    """property: so many different rows, rising, of every class where there are enough, however they are sorted."""
    labels = np.sort(np.random.default_rng(seed).integers(0, classes, 200))
    places = sampling.covering_sample(labels, count)
    assert len(places) == min(count, 200) and (np.diff(places) > 0).all()
    present = len(np.unique(labels))
    assert len(np.unique(labels[places])) == min(present, count)


def test_a_sample_holds_classes_in_proportion() -> None:
    """golden: of 900, 90 and 10 rows, 100 are 90, 9 and 1, to a row; the first rows are no better than others."""
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    counts = np.bincount(labels[sampling.covering_sample(labels, 100)])
    assert np.abs(counts - [90, 9, 1]).max() <= 1
    drawn = sampling.covering_sample(np.zeros(1000, int), 100)
    assert 350 < drawn.mean() < 650


def test_a_sample_is_always_the_same() -> None:
    """determinism: by the seed alone."""
    labels = np.arange(500) % 7
    first = sampling.covering_sample(labels, 50)
    assert np.array_equal(first, sampling.covering_sample(labels, 50))
    assert not np.array_equal(first, sampling.covering_sample(labels, 50, seed=1))


def test_parts_hold_so_many_bytes() -> None:
    """golden: rows of 16 MiB as float32 come four at a time, in their order; larger ones one by one."""
    parts = sampling.in_parts(np.arange(10), (4, 1024, 1024))
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(sampling.in_parts(np.arange(3), (1 << 30,))) == 3
    assert sampling.in_parts(np.arange(0), (5,)) == []
