"""Splits: disjoint, complete, of the size asked for, fair to every class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillery.errors import InputError
from distillery.stages.data.splits import NAMES, split_rows

SHARES: dict[str, Any] = {"train": None, "val_ensemble": 0.1, "val_search": 0.15, "test": 0.25}


@st.composite
def labelled(draw: st.DrawFn) -> np.ndarray:
    """Labels of 2 to 4 classes, each of 20 to 60 rows, in any order."""
    counts = draw(st.lists(st.integers(20, 60), min_size=2, max_size=4))
    labels = np.repeat([f"class {i}" for i in range(len(counts))], counts)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(labels)


def deviation(labels: np.ndarray, rows: np.ndarray) -> float:
    """By how many rows a class of a split is off its share, at most."""
    classes = np.unique(labels)
    expected = [(labels == c).mean() * len(rows) for c in classes]
    return max(abs((labels[rows] == c).sum() - e) for c, e in zip(classes, expected, strict=True))


@given(labelled(), st.booleans(), st.integers(0, 9))
def test_splits_are_disjoint_and_cover_all_rows(labels: np.ndarray, ordered: bool, seed: int) -> None:
    """property: every row is in one split; sizes are the rounded shares; the same seed gives the same rows."""
    parts = split_rows(labels, SHARES, ordered=ordered, seed=seed)
    assert tuple(parts) == NAMES
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(labels)))
    for name in NAMES[1:]:
        assert len(parts[name]) == round(SHARES[name] * len(labels))
        assert (np.diff(parts[name]) > 0).all()
    again = split_rows(labels, SHARES, ordered=ordered, seed=seed)
    assert all(np.array_equal(parts[n], again[n]) for n in NAMES)


@given(labelled(), st.integers(0, 9))
def test_every_class_gets_its_share(labels: np.ndarray, seed: int) -> None:
    """property: in the split drawn first a class is within one row of its share, in later ones within two."""
    parts = split_rows(labels, SHARES, ordered=False, seed=seed)
    assert deviation(labels, parts["test"]) <= 1
    assert max(deviation(labels, rows) for rows in parts.values()) <= 2


@given(labelled(), st.integers(10, 20), st.integers(5, 15), st.integers(5, 10))
def test_numbers_of_rows_are_kept(labels: np.ndarray, train: int, val_ensemble: int, test: int) -> None:
    """property: whole numbers are numbers of rows; what train does not ask for stays unused."""
    sizes = {"train": train, "val_ensemble": val_ensemble, "val_search": 5, "test": test}
    parts = split_rows(labels, sizes, ordered=False, seed=0)
    assert {n: len(rows) for n, rows in parts.items()} == sizes
    assert len(np.unique(np.concatenate(list(parts.values())))) == sum(sizes.values())


@given(labelled())
def test_order_is_kept(labels: np.ndarray) -> None:
    """property: ordered splits are runs of rows, in the order train, val_ensemble, val_search, test."""
    parts = split_rows(labels, SHARES, ordered=True, seed=0)
    assert np.array_equal(np.concatenate([parts[n] for n in NAMES]), np.arange(len(labels)))


@given(labelled(), st.integers(0, 9), st.booleans())
def test_a_given_test_set_is_kept(labels: np.ndarray, seed: int, ordered: bool) -> None:
    """property: the given test set is test; shares are of the other rows; unusable rows are nowhere."""
    generator = np.random.default_rng(seed)
    given_test = np.zeros(len(labels), bool)
    given_test[generator.permutation(len(labels))[:10]] = True
    usable = np.ones(len(labels), bool)
    usable[generator.permutation(len(labels))[:5]] = False
    parts = split_rows(labels, SHARES, ordered=ordered, seed=seed, given_test=given_test, usable=usable)
    assert np.array_equal(parts["test"], np.flatnonzero(given_test & usable))
    rest = np.flatnonzero(~given_test & usable)
    assert len(parts["val_search"]) == round(0.15 * len(rest))
    learned = np.concatenate([parts[n] for n in NAMES[:3]])
    assert np.array_equal(np.sort(learned), rest)


def test_another_seed_gives_other_rows() -> None:
    """determinism: the seed shuffles stratified splits, and has no say in ordered ones."""
    labels = np.tile(["a", "b"], 100)

    def both(seed: int) -> list[list[int]]:
        return [split_rows(labels, SHARES, ordered=o, seed=seed)["test"].tolist() for o in (False, True)]

    (first, ordered), (second, also_ordered) = both(1), both(2)
    assert first != second and ordered == also_ordered


MANY = {"train": 60, "val_ensemble": 20, "val_search": 20, "test": 30}
MISTAKES: list[tuple[list[int], dict[str, Any], str]] = [
    ([100], SHARES, "expected at least two classes, got 1"),
    ([97, 3], SHARES, "expected at least 4 rows of every class, one for each split, got 3"),
    ([50, 50], MANY, r"data\.split: expected at most 100 rows in all, got 130"),
    ([50, 50], {**MANY, "train": None, "test": 70}, r"data\.split\.train: expected at least one row of 100, got -10"),
    ([50, 50], {**SHARES, "val_search": 0.001}, r"data\.split\.val_search: expected at least one row of 100, got 0"),
    ([40, 30, 30], {**SHARES, "test": 2}, r"data\.split\.test: expected at least one row of each of 3 classes, got 2"),
]


@pytest.mark.parametrize(("counts", "sizes", "message"), MISTAKES, ids=[m for *_, m in MISTAKES])
def test_rows_that_cannot_be_split_are_told(counts: list[int], sizes: dict[str, Any], message: str) -> None:
    """contract: too few classes, too few rows of one, and sizes that do not fit are InputErrors."""
    labels = np.repeat(np.arange(len(counts)), counts)
    with pytest.raises(InputError, match=message):
        split_rows(labels, sizes, ordered=False, seed=0)


@given(st.integers(60, 400), st.integers(0, 9), st.integers(1, 30))
def test_rows_stay_where_their_content_puts_them(count: int, seed: int, more: int) -> None:
    """property: disjoint and complete; equal rows stay together; rows that are put in front move no other row."""
    generator = np.random.default_rng(count)
    contents = generator.integers(0, 2**63, count + more).astype(np.uint64)
    contents[count:] = np.where(generator.random(more) < 0.5, contents[:more], contents[count:])
    labels = generator.permutation(np.repeat(["a", "b"], -(-(count + more) // 2)))[: count + more]
    after = split_rows(labels, SHARES, ordered=False, seed=seed, contents=contents)
    assert np.array_equal(np.sort(np.concatenate(list(after.values()))), np.arange(count + more))
    before = split_rows(labels[more:], SHARES, ordered=False, seed=seed, contents=contents[more:])
    place = {int(row): name for name, rows in after.items() for row in rows}
    for name, rows in before.items():
        assert {place[int(row) + more] for row in rows} == {name}
    for content in np.unique(contents):
        assert len({place[int(row)] for row in np.flatnonzero(contents == content)}) == 1


def test_shares_of_hashed_rows_are_met_roughly() -> None:
    """reference: within four standard deviations of a binomial; another seed deals otherwise."""
    contents = np.arange(20000, dtype=np.uint64)
    labels = np.where(contents % 3, "a", "b")
    parts = [split_rows(labels, SHARES, ordered=False, seed=seed, contents=contents) for seed in (0, 1)]
    for name, share in {"train": 0.5, **{n: SHARES[n] for n in NAMES[1:]}}.items():
        assert abs(len(parts[0][name]) - share * 20000) < 4 * np.sqrt(share * (1 - share) * 20000)
        assert not np.array_equal(parts[0][name], parts[1][name])
    kept = {**SHARES, "train": 0.2}
    small = split_rows(labels, kept, ordered=False, seed=0, contents=contents)
    assert sum(map(len, small.values())) < 0.72 * 20000


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"test": 40}, r"data\.split\.test: expected a share below 1 with order 'hashed', got 40"),
        ({"test": 0.9}, r"data\.split: expected shares of at most 1 in all, something left for train, got 1\.15"),
        ({"test": 1e-9}, r"data\.split\.test: expected at least one row of 200, got none by their hashes"),
    ],
)
def test_hashed_splits_that_cannot_be_made_are_refused(sizes: dict[str, float], message: str) -> None:
    """contract: one InputError that names the field."""
    labels, contents = np.repeat(["a", "b"], 100), np.arange(200, dtype=np.uint64)
    with pytest.raises(InputError, match=message):
        split_rows(labels, {**SHARES, **sizes}, ordered=False, seed=0, contents=contents)
