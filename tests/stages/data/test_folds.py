"""Folds of the training rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillery.config.data import Data
from distillery.errors import InputError
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.folds import NO_FOLD, check_folds, deal_folds
from distillery.stages.data.preparation import prepare, read_source
from distillery.store import Handle, Store

SHAPE = {"features": 5, "informative": 4, "redundant": 0, "classes": 3}
TABLE = {"source": "make_classification", "random_state": 0, "rows": 400, **SHAPE}


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), min_size=8, max_size=80), st.integers(2, 6))
def test_classes_are_dealt_evenly_and_equal_rows_together(rows: list[tuple[int, int]], count: int) -> None:
    """property: folds of a class differ by one content at most; a content is in one fold; the order is no matter."""
    labels, contents = (np.array(column) for column in zip(*rows, strict=True))
    contents = contents.astype(np.uint64) * 3 + labels.astype(np.uint64)  # a content has one label here
    folds = deal_folds(labels, contents, count, seed=0)
    for content in np.unique(contents):
        assert len(set(folds[contents == content])) == 1
    for label in np.unique(labels):
        _, first = np.unique(contents[labels == label], return_index=True)
        sizes = np.bincount(folds[labels == label][first], minlength=count)
        assert sizes.max() - sizes.min() <= 1
    turned = np.arange(len(labels))[::-1]
    np.testing.assert_array_equal(deal_folds(labels[turned], contents[turned], count, 0), folds[turned])


def prepared(store: Store, split: dict[str, Any]) -> tuple[Handle, Dataset]:
    """Stage `data` of a small table."""
    config = Data(**TABLE, split=split)
    handle = prepare(config, read_source(config), store)
    return handle, Dataset(handle)


def test_with_folds_every_row_beside_test_and_val_search_is_train(store: Store) -> None:
    """golden: 400 rows; val_ensemble is train, and other splits have no fold."""
    handle, dataset = prepared(store, {"folds": 4, "val_search": 0.1, "test": 0.2})
    assert {name: len(rows) for name, rows in dataset.splits.items()} == {
        "train": 280,
        "val_ensemble": 280,
        "val_search": 40,
        "test": 80,
    }
    assert dataset.folds is not None
    np.testing.assert_array_equal(np.bincount(dataset.folds[dataset.splits["train"]]), [70] * 4)
    others = np.concatenate([dataset.splits["val_search"], dataset.splits["test"]])
    assert set(dataset.folds[others]) == {NO_FOLD}
    assert handle.metrics["folds"] == dataset.fold_count == 4


@pytest.mark.parametrize(("most", "held_out"), [(320, 0), (319, 40)])
def test_many_rows_have_no_folds(store: Store, most: int, held_out: int) -> None:
    """golden: 320 of 400 rows are beside test; with more than `folds_up_to`, val_ensemble is held out."""
    handle, dataset = prepared(store, {"folds": 4, "folds_up_to": most, "test": 0.2})
    assert handle.metrics.get("rows_val_ensemble", 0) == held_out
    assert (dataset.folds is None) == bool(held_out)


def test_other_folds_are_other_data_for_teachers(store: Store) -> None:
    """property: the digest that teachers are named by follows the folds, that of train does not."""
    _, four = prepared(store, {"folds": 4})
    _, five = prepared(store, {"folds": 5})
    assert four.digest("train") == five.digest("train")
    assert four.digest("val_ensemble") != five.digest("val_ensemble")


@pytest.mark.parametrize(("rare", "left_out", "accepted"), [(1, 1, False), (2, 1, True), (2, 2, False), (3, 2, True)])
def test_folds_that_leave_one_class_are_refused(rare: int, left_out: int, accepted: bool) -> None:
    """error: of two classes, one in as many folds as a model is trained without; one line says what would do."""
    labels = np.array([0] * 20 + [1] * rare)
    folds = deal_folds(labels, np.arange(len(labels), dtype=np.uint64), 4, 0)
    if accepted:
        check_folds(folds, labels, left_out)
    else:
        with pytest.raises(InputError, match=f"rarest of 2 classes has {rare} training rows.*folds: null"):
            check_folds(folds, labels, left_out)
