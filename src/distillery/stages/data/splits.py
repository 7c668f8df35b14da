"""Splits: train fits, val_ensemble weighs, val_search chooses, test reports. A row is in one of them only.

With folds there is no val_ensemble, for teachers answer each row of train without having seen it. With folds for
students as well, there is no val_search.
"""

from __future__ import annotations

import numpy as np

from distillery.errors import InputError
from distillery.ops.counter_rng import CounterRNG

SPLIT_KEY = 1 << 21  # a stream of its own beside those of views
HELD_OUT = ("val_ensemble", "val_search")
NAMES = ("train", "val_ensemble", "val_search", "test")


def split_rows(
    labels: np.ndarray,
    sizes: dict[str, float | None],
    *,
    ordered: bool,
    seed: int,
    given_test: np.ndarray | None = None,
    usable: np.ndarray | None = None,
    contents: np.ndarray | None = None,
    names: tuple[str, ...] = NAMES,
) -> dict[str, np.ndarray]:
    """Row ids of each split, ascending, pairwise disjoint.

    Args:
        labels: Class ids [N].
        sizes: Share (below 1) or number of rows of each split; None for train means all that is left.
        ordered: Take rows in their order instead of stratified at random.
        seed: Of the shuffle within each class.
        given_test: Rows [N] that are the test split already.
        usable: Rows [N] that may be used at all.
        contents: A hash of each row's content, uint64 [N]: it alone (and the seed) then decides where a row goes.
        names: Of the splits that are made.

    Raises:
        InputError: There is one class only, a class has fewer rows than there are splits, or numbers of rows are asked
            for where contents decide.
    """
    keep = np.ones(len(labels), bool) if usable is None else usable
    test = np.flatnonzero(given_test & keep) if given_test is not None else None
    pool = np.flatnonzero(keep & ~given_test) if given_test is not None else np.flatnonzero(keep)
    made = [name for name in names if not (name == "test" and test is not None)]
    _check_classes(labels[pool], len(made))
    if contents is not None:
        parts = _hashed(pool, contents[pool], _shares(sizes, made), seed)
    else:
        counts = _counts(sizes, made, len(pool))
        parts = _ordered(pool, counts) if ordered else _stratified(pool, labels, counts, seed)
    missing = np.setdiff1d(labels[pool], labels[parts["train"]])
    if len(missing):
        raise InputError(f"data.split: expected every class in train, got no row of class {str(missing[0])!r}")
    if test is not None:
        parts["test"] = test
    return parts


def _check_classes(labels: np.ndarray, n_splits: int) -> None:
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise InputError(f"data: expected at least two classes, got {len(classes)}")
    if counts.min() < n_splits:
        raise InputError(
            f"data: expected at least {n_splits} rows of every class, one for each split, "
            f"got {counts.min()} of class {str(classes[counts.argmin()])!r}"
        )


def _counts(sizes: dict[str, float | None], names: list[str], total: int) -> dict[str, int]:
    counts = {}
    for name in names:
        size = sizes[name]
        if size is not None:
            counts[name] = round(size * total) if size < 1 else int(size)
    rest = total - sum(counts.values())
    if "train" not in counts:
        counts["train"] = rest
    elif rest < 0:
        raise InputError(f"data.split: expected at most {total} rows in all, got {sum(counts.values())}")
    for name in names:
        if counts[name] < 1:
            raise InputError(f"data.split.{name}: expected at least one row of {total}, got {counts[name]}")
    return {name: counts[name] for name in names}


def _shares(sizes: dict[str, float | None], names: list[str]) -> dict[str, float]:
    given = {name: sizes[name] for name in names}
    for name, size in given.items():
        if size is not None and size >= 1:
            raise InputError(f"data.split.{name}: expected a share below 1 with order 'hashed', got {size:g}")
    rest = 1 - sum(size for size in given.values() if size is not None)
    shares = {name: rest if size is None else size for name, size in given.items()}
    if rest < -1e-9 or min(shares.values()) <= 0:
        total = sum(size for size in given.values() if size is not None)
        raise InputError(f"data.split: expected shares of at most 1 in all, something left for train, got {total:g}")
    return shares


def _hashed(pool: np.ndarray, contents: np.ndarray, shares: dict[str, float], seed: int) -> dict[str, np.ndarray]:
    drawn = CounterRNG(contents, np.zeros(len(contents), np.int64), SPLIT_KEY + seed).uniform(0)
    ends = np.cumsum(list(shares.values()))
    places = np.searchsorted(ends, drawn, side="right")
    parts = {name: pool[places == number] for number, name in enumerate(shares)}
    for name, rows in parts.items():
        if not len(rows):
            raise InputError(f"data.split.{name}: expected at least one row of {len(pool)}, got none by their hashes")
    return parts


def _ordered(pool: np.ndarray, counts: dict[str, int]) -> dict[str, np.ndarray]:
    ends = np.cumsum(list(counts.values()))
    return {name: pool[end - counts[name] : end] for name, end in zip(counts, ends, strict=True)}


def _stratified(pool: np.ndarray, labels: np.ndarray, counts: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    # Imported here: processes that read finished data start without it, which saves a second and a half each.
    from sklearn.model_selection import train_test_split

    parts: dict[str, np.ndarray] = {}
    for name in reversed(counts):
        if len(pool) == counts[name]:
            taken, pool = pool, pool[:0]
        else:
            _check_room(name, counts[name], labels[pool])
            try:
                pool, taken = train_test_split(
                    pool, test_size=counts[name], stratify=labels[pool], random_state=seed, shuffle=True
                )
            except ValueError as error:
                raise InputError(f"data.split.{name}: cannot take {counts[name]} rows by class: {error}") from error
        parts[name] = np.sort(taken)
    return {name: parts[name] for name in counts}


def _check_room(name: str, count: int, labels: np.ndarray) -> None:
    classes = len(np.unique(labels))
    if count < classes or len(labels) - count < classes:
        raise InputError(f"data.split.{name}: expected at least one row of each of {classes} classes, got {count} rows")
