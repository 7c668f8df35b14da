"""Convex weights that minimise the negative log-likelihood of the pool. M members, N rows, C classes."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from distillery.weightings import WEIGHTINGS


@WEIGHTINGS.register("convex")
def convex(
    probs_MNC: np.ndarray,
    labels_N: np.ndarray,
    pool: str,
    *,
    shrinkage: float = 10.0,
    tolerance: float = 1e-7,
    max_steps: int = 10_000,
) -> np.ndarray:
    """Weights [M] that minimise ``NLL(w) - shrinkage / (N·M) · Σ log w_m``: a Dirichlet prior towards uniform weights.

    For a linear pool by MAP expectation-maximisation (monotone, no step size): ``w_m <- (Σ_i r_im + λ/M) / (N + λ)``
    with responsibilities ``r_im = w_m p_m(y_i) / p̄(y_i)``. For a log pool by L-BFGS on the softmax of free weights.

    Args:
        shrinkage: Strength λ of the prior, in rows; 0 is maximum likelihood.
        tolerance: Largest change of a weight at which the iteration stops.
        max_steps: Largest number of EM steps.
    """
    if pool == "logits":
        return _log_pool(probs_MNC, labels_N, shrinkage)
    n_members, n_rows = probs_MNC.shape[:2]
    likelihood_MN = np.maximum(probs_MNC[:, np.arange(n_rows), labels_N], 1e-12)
    weights = np.full(n_members, 1 / n_members)
    for _ in range(max_steps):
        joint = weights[:, None] * likelihood_MN
        responsibility = (joint / joint.sum(0)).sum(1)
        new = (responsibility + shrinkage / n_members) / (n_rows + shrinkage)
        if np.abs(new - weights).max() < tolerance:
            return new
        weights = new
    return weights


def _log_pool(probs_MNC: np.ndarray, labels_N: np.ndarray, shrinkage: float) -> np.ndarray:
    logs_MNC = np.log(np.maximum(probs_MNC, 1e-12))
    n_members, n_rows = logs_MNC.shape[:2]
    rows = np.arange(n_rows)

    def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
        weights = softmax(free)
        pooled = log_softmax(np.tensordot(weights, logs_MNC, 1), axis=-1)
        residual = np.exp(pooled)
        residual[rows, labels_N] -= 1
        gradient = np.einsum("mnc,nc->m", logs_MNC, residual) / n_rows - shrinkage / (n_rows * n_members) / weights
        value = -pooled[rows, labels_N].mean() - shrinkage / (n_rows * n_members) * np.log(weights).sum()
        return float(value), weights * (gradient - weights @ gradient)

    return np.asarray(softmax(minimize(loss, np.zeros(n_members), jac=True, method="L-BFGS-B").x))
