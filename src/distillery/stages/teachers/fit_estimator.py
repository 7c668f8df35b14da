"""Fits a classifier with scikit-learn's interface, also where some class has hardly any rows. N rows, F features."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np

ROUNDS_WITHOUT_CONTROL = 100  # of boosting, where no rows can be held back to say when it is enough


def fit_estimator(estimator: Any, inputs_NF: np.ndarray, labels_N: np.ndarray, seed: int) -> None:
    """Fits an estimator in place, with this seed where it takes one and has none.

    Early stopping holds rows of every class back. Where a class has a single row that cannot be done: the estimator is
    then fitted without, in fewer rounds.
    """
    if "random_state" in inspect.signature(type(estimator)).parameters and estimator.random_state is None:
        estimator.set_params(random_state=seed)
    _, counts = np.unique(labels_N, return_counts=True)
    if counts.min() < 2 and getattr(estimator, "early_stopping", None) is True:
        rounds = min(estimator.max_iter, ROUNDS_WITHOUT_CONTROL)
        estimator.set_params(early_stopping=False, max_iter=rounds)
    with warnings.catch_warnings():
        # A rare class is in fewer folds of a cross-validation than there are: nothing that a user could change.
        warnings.filterwarnings("ignore", message="The least populated class in y has only", category=UserWarning)
        estimator.fit(inputs_NF, labels_N)
