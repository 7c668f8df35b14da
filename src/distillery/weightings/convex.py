"""Convex weights that minimise the negative log-likelihood of the pool. M members, N rows, C classes."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy.optimize import minimize, nnls
from scipy.special import log_softmax, softmax

from distillery.errors import InputError
from distillery.ops.log_probs import FLOOR, LOG_FLOOR, LogProbs
from distillery.weightings import WEIGHTINGS, deal, one_standard_error

GRID = (0.0, 3.0, 10.0, 30.0, 100.0, math.inf)
FOLDS = 5


def _check(options: dict[str, object]) -> None:
    shrinkage = options["shrinkage"]
    if shrinkage != "cv" and not (isinstance(shrinkage, int | float) and 0 <= shrinkage < math.inf):
        raise InputError(f"shrinkage: expected 'cv' or a number of rows >= 0, got {shrinkage}")


def _seconds(pool: str, members: int, classes: int, rows: int, **options: object) -> float:
    """Some thirty steps of L-BFGS, each of which makes all log-probabilities; a linear pool needs the labels' alone."""
    return 1.2e-7 * members * rows * classes if pool == "logits" else 1e-5 * members * rows


# Ten rows for each weight, the usual rule of thumb for regression; shrinkage takes care of pools that need more.
@WEIGHTINGS.register("convex", min_rows=lambda members, classes: 10 * members, seconds=_seconds, check=_check)
def convex(
    probs: LogProbs | np.ndarray,
    labels_N: np.ndarray,
    pool: str,
    *,
    shrinkage: float | Literal["cv"] = "cv",
    tolerance: float = 1e-6,
    max_steps: int = 10_000,
) -> np.ndarray:
    """Weights [M] that minimise ``NLL(w) - shrinkage / (N·M) · Σ log w_m``: a Dirichlet prior towards uniform weights.

    For a linear pool by expectation-maximisation on the likelihoods [M, N]; for a log pool by L-BFGS on the softmax of
    free weights. The log pool takes over the strength that cross-validation finds for the linear pool: it asks how far
    the rows can tell the members apart, and there an answer costs milliseconds however many classes there are.

    Args:
        shrinkage: Strength λ of the prior, in rows; 0 is maximum likelihood. ``cv`` chooses among 0, 3, 10, 30, 100 and
            infinity (uniform weights): the largest within one standard error of the best on held-out rows.
        tolerance: Largest distance of the objective to its minimum, in nats, at which the iteration stops.
        max_steps: Largest number of EM steps.
    """
    log_probs = LogProbs.of(probs)
    likelihood_MN = np.maximum(np.exp(log_probs.at_label(labels_N)), FLOOR)
    strength = _by_cross_validation(likelihood_MN, labels_N, max_steps) if shrinkage == "cv" else float(shrinkage)
    start = np.full(len(likelihood_MN), 1 / len(likelihood_MN))
    if strength == math.inf or len(start) == 1:
        return start
    if pool == "logits":
        weights, least = _log_pool(log_probs, labels_N, strength), 1e-4
    else:
        weights, least = linear_pool(likelihood_MN, strength, start, tolerance, max_steps), tolerance
    if strength == 0:  # what is left of a member that is on its way to zero would have its rows labelled for nothing
        weights = np.where(weights < least, 0.0, weights)
    return np.asarray(weights / weights.sum())


def _by_cross_validation(likelihood_MN: np.ndarray, labels_N: np.ndarray, max_steps: int) -> float:
    folds = deal(labels_N, FOLDS)
    losses = np.empty((len(GRID), len(labels_N)))
    for fold in range(FOLDS):
        fit_on, judge_on = np.ascontiguousarray(likelihood_MN[:, folds != fold]), folds == fold
        weights = np.full(len(likelihood_MN), 1 / len(likelihood_MN))
        for index in reversed(range(len(GRID))):  # each strength starts from the weights of the next stronger one
            if GRID[index] < math.inf:  # a coarse fit will do: rows differ by far more than 1e-5 nats
                weights = linear_pool(fit_on, GRID[index], weights, 1e-5, max_steps)
            losses[index, judge_on] = -np.log(weights @ likelihood_MN[:, judge_on])
    return GRID[one_standard_error(losses)]


def linear_pool(
    likelihood_MN: np.ndarray, shrinkage: float, weights_M: np.ndarray, tolerance: float, max_steps: int
) -> np.ndarray:
    """Weights [M] of the linear pool, from `weights_M` on.

    MAP-EM, ``w_m <- (N w_m g_m + λ/M) / (N + λ)`` with ``g_m = (1/N) Σ_i p_m(y_i) / p̄(y_i)``, is monotone but slow
    where members are alike; a Newton step after each EM step, taken only if it goes lower, cuts the steps from
    thousands to about ten. By convexity the distance to the minimum is at most
    ``max_m (g_m + λ/(N M w_m)) - 1 - λ/N``, which for λ = 0 is ``max_m g_m - 1``: there the iteration stops.
    """
    n_members, n_rows = likelihood_MN.shape
    prior = shrinkage / (n_rows * n_members)
    for _ in range(max_steps):
        gain = likelihood_MN @ (1 / (weights_M @ likelihood_MN)) / n_rows
        if (gain + prior / np.maximum(weights_M, 1e-300)).max() - 1 - prior * n_members <= tolerance:
            break
        weights_M = (weights_M * gain + prior) / (1 + prior * n_members)
        weights_M = _newton(likelihood_MN, prior, weights_M)
    return weights_M


def _newton(likelihood_MN: np.ndarray, prior: float, weights_M: np.ndarray) -> np.ndarray:
    """The first point on the way back from the minimum of the quadratic model on w >= 0 that is lower, if there is one.

    With ``Σ w (1 + λ/N)`` added to the objective its minimum sums to one by itself, so that the model's minimum is a
    problem of non-negative least squares (after Kim et al. 2020, "A fast algorithm for maximum likelihood estimation of
    mixture proportions using sequential quadratic programming").
    """
    n_members, n_rows = likelihood_MN.shape
    ratio_MN = likelihood_MN / (weights_M @ likelihood_MN)
    held = np.maximum(weights_M, 1e-12)
    curvature = ratio_MN @ ratio_MN.T / n_rows + np.diag(prior / held**2)
    curvature[np.diag_indices(n_members)] += 1e-9 * np.trace(curvature)  # members that are the same have none
    slope = 1 + prior * n_members - ratio_MN.mean(1) - prior / held
    root = np.linalg.cholesky(curvature).T
    target, _ = nnls(root, np.linalg.solve(root.T, curvature @ weights_M - slope))
    value = _objective(likelihood_MN, prior, weights_M)
    for length in (0.99 if prior else 1.0, 0.5, 0.25, 0.05) if target.any() else ():
        point = weights_M + length * (target / target.sum() - weights_M)
        if _objective(likelihood_MN, prior, point) < value:
            return point
    return weights_M


def _objective(likelihood_MN: np.ndarray, prior: float, weights_M: np.ndarray) -> float:
    return float(-np.log(weights_M @ likelihood_MN).mean() - (prior * np.log(weights_M).sum() if prior else 0.0))


def _log_pool(log_probs: LogProbs, labels_N: np.ndarray, shrinkage: float) -> np.ndarray:
    n_members, n_rows, n_classes = log_probs.shape
    at_label = np.maximum(log_probs.at_label(labels_N), LOG_FLOOR).mean(1)
    prior = shrinkage / (n_rows * n_members)
    each_class = np.ones(n_classes)  # sums over classes by a product: of few classes they are ten times as fast

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        log_weights = log_softmax(free)
        weights = np.exp(log_weights)
        total, mean_M = 0.0, np.zeros(n_members)
        for _, block in log_probs.blocks():
            logs = block.reshape(n_members, -1)
            # nothing is below the floor, so that no exponential vanishes
            probs_BC = np.exp(weights @ logs).reshape(-1, n_classes)
            sums_B = probs_BC @ each_class
            probs_BC /= sums_B[:, None]
            total += float(np.log(sums_B).sum())
            mean_M += logs @ probs_BC.ravel()
        value = total / n_rows - weights @ at_label - prior * log_weights.sum()
        gradient = mean_M / n_rows - at_label
        return float(value), weights * (gradient - weights @ gradient) - prior * (1 - n_members * weights)

    return np.asarray(softmax(minimize(loss, np.zeros(n_members), jac=True, method="L-BFGS-B").x))
