"""Folds of the training rows: a teacher is trained once without each, and answers its rows as if they were new.

N rows.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from distillery.errors import InputError
from distillery.ops.counter_rng import CounterRNG

FOLDS_KEY = 1 << 22  # a stream of its own beside those of splits and views
NO_FOLD = -1


def deal_folds(labels_N: np.ndarray, contents_N: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The fold of each row, int64 [N].

    Each class is dealt out evenly. Rows of the same content are in one fold, or the answer to one of them would come
    from a model that has learned the other.

    Args:
        labels_N: Class ids.
        contents_N: A hash of each row's content, uint64.
        count: Of folds.
        seed: Of the order in which contents are dealt.
    """
    contents, first_places, inverse_N = np.unique(contents_N, return_index=True, return_inverse=True)
    drawn = CounterRNG(contents, np.zeros(len(contents), np.int64), FOLDS_KEY + seed).uniform(0)
    order = np.lexsort((drawn, labels_N[first_places]))
    folds = np.empty(len(contents), np.int64)
    folds[order] = np.arange(len(contents)) % count
    return np.asarray(folds[inverse_N])


def check_folds(folds_N: np.ndarray, labels_N: np.ndarray, left_out: int) -> None:
    """Refuses folds of which so many leave nothing to tell apart.

    Raises:
        InputError: The rows of all other folds are of one class, or there are none.
    """
    for numbers in combinations(range(folds_N.max() + 1), left_out):
        others = labels_N[~np.isin(folds_N, numbers)]
        if len(np.unique(others)) < 2:
            classes, counts = np.unique(labels_N, return_counts=True)
            beside = f"any {left_out} of {folds_N.max() + 1} folds"
            raise InputError(
                f"data.split.folds: expected rows of two classes beside {beside}, got {len(np.unique(others))}; the "
                f"rarest of {len(classes)} classes has {counts.min()} training rows; "
                "give more rows of it, or set data.split.folds: null"
            )
