"""A linear map on the members' log-probabilities. M members, N rows, C classes."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from distillery.errors import InputError
from distillery.ops.log_probs import LogProbs
from distillery.ops.pooling import side_by_side
from distillery.weightings import WEIGHTINGS, deal, one_standard_error

GRID = (1.0, 10.0, 100.0)
FOLDS = 5


def _check(options: dict[str, object]) -> None:
    strength = options["strength"]
    if strength != "cv" and not (isinstance(strength, int | float) and 0 < strength < math.inf):
        raise InputError(f"strength: expected 'cv' or a number > 0, got {strength}")


def _seconds(
    pool: str, members: int, classes: int, rows: int, *, strength: float | Literal["cv"], **options: object
) -> float:
    """A step of L-BFGS multiplies N·M·C inputs by C columns; there are some hundred steps in each fit."""
    fits = 1 + FOLDS * len(GRID) if strength == "cv" else 1
    return 5e-8 * fits * rows * members * classes**2


# Ten rows for each of the M·C inputs of a class's logit; each of them is a coefficient that only the penalty holds.
@WEIGHTINGS.register(
    "stacking",
    stacks=True,
    min_rows=lambda members, classes: 10 * members * classes,
    seconds=_seconds,
    check=_check,
)
def stacking(
    probs: LogProbs | np.ndarray,
    labels_N: np.ndarray,
    pool: str,
    *,
    strength: float | Literal["cv"] = "cv",
    max_steps: int = 1000,
) -> np.ndarray:
    """A linear map [M·C + 1, C] to logits: multinomial logistic regression with an L2 penalty (Wolpert 1992).

    It is not bound to the simplex: it can trust a member on some classes only, subtract what members have in common,
    and sharpen a timid pool. A class that no row has keeps the members' mean log-probability.

    Args:
        strength: Of the penalty, ``1 / C`` in scikit-learn. ``cv`` chooses among 1, 10 and 100: the largest
            within one standard error of the best on held-out rows.
        max_steps: Largest number of L-BFGS steps.
    """
    logs_MNC = LogProbs.of(probs).all()
    classes = logs_MNC.shape[2]
    inputs = side_by_side(logs_MNC - logs_MNC.mean(-1, keepdims=True))
    if strength == "cv":
        strength = _by_cross_validation(inputs, labels_N, classes, max_steps)
    return centred(_path(inputs, labels_N, classes, (strength,), max_steps)[0])


def _by_cross_validation(inputs: np.ndarray, labels_N: np.ndarray, classes: int, max_steps: int) -> float:
    folds = deal(labels_N, FOLDS)
    losses = np.empty((len(GRID), len(labels_N)))
    for fold in range(FOLDS):
        fit_on, rows = folds != fold, np.flatnonzero(folds == fold)
        for index, linear_map in enumerate(_path(inputs[fit_on], labels_N[fit_on], classes, GRID, max_steps)):
            logits = inputs[rows] @ linear_map[:-1] + linear_map[-1]
            losses[index, rows] = -log_softmax(logits, axis=-1)[np.arange(len(rows)), labels_N[rows]]
    return GRID[one_standard_error(losses)]


def _path(
    inputs: np.ndarray, labels_N: np.ndarray, classes: int, strengths: tuple[float, ...], max_steps: int
) -> list[np.ndarray]:
    """A map for each strength; each fit starts from the next stronger one's."""
    members, seen = inputs.shape[1] // classes, np.unique(labels_N)
    mean = np.vstack([np.tile(np.eye(classes) / members, (members, 1)), np.zeros(classes)])
    maps = [mean.copy() for _ in strengths]
    model = LogisticRegression(max_iter=max_steps, warm_start=True)
    for index in reversed(range(len(strengths))) if len(seen) > 1 else ():
        model.set_params(C=1 / strengths[index]).fit(inputs, labels_N)
        fitted = np.vstack([model.coef_.T, model.intercept_])
        # with two classes scikit-learn keeps the difference of their logits only
        maps[index][:, seen] = fitted if len(seen) > 2 else np.hstack([-fitted, fitted]) / 2
    return maps


def centred(linear_map: np.ndarray) -> np.ndarray:
    """The map [M·C + 1, C] that takes log-probabilities as they are and centres each member's on the way."""
    classes = linear_map.shape[1]
    blocks = linear_map[:-1].reshape(-1, classes, classes)
    blocks = blocks - blocks.mean(1, keepdims=True)
    return np.vstack([blocks.reshape(-1, classes), linear_map[-1:]])
