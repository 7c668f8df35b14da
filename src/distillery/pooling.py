"""How the members' logits become the ensemble's. M members, N rows, C classes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

from distillery.metrics import row_nll

FLOOR = 1e-12  # smallest probability that weightings see; below it a single row would outweigh all others
TEMPERATURES = (0.2, 5.0)


def pool_logits(logits_MNC: np.ndarray, weights: np.ndarray, pool: str, temperature: float = 1.0) -> np.ndarray:
    """Logits [N, C] of the ensemble.

    ``probs``: ``log Σ_m w_m softmax(z_m)``. ``logits``: ``Σ_m w_m log softmax(z_m)``, the normalised geometric mean up
    to a constant per row. Members of weight zero do not count. The temperature divides what comes out: members are
    never calibrated one by one, as the mean of calibrated members is underconfident (Rahaman and Thiery 2021,
    arXiv 2007.08792).

    Args:
        logits_MNC: The members' logits.
        weights: Weights [M] on the simplex, or a linear map [M·C + 1, C] from the members' log-probabilities, side by
            side, to logits; its last row is the bias.
        pool: ``probs`` or ``logits``; a linear map is always on log-probabilities.
        temperature: Divides the pooled logits.
    """
    if weights.ndim == 2:
        logs_MNC = np.maximum(log_softmax(logits_MNC.astype(np.float64), axis=-1), np.log(FLOOR))
        return np.asarray(side_by_side(logs_MNC) @ weights[:-1] + weights[-1]) / temperature
    active = np.flatnonzero(weights > 0)
    logs_MNC = log_softmax(logits_MNC[active].astype(np.float64), axis=-1)
    weights_M11 = weights[active][:, None, None]
    if pool == "probs":
        return np.asarray(logsumexp(logs_MNC, b=weights_M11, axis=0)) / temperature
    return np.asarray((weights_M11 * logs_MNC).sum(0)) / temperature


def side_by_side(logs_MNC: np.ndarray) -> np.ndarray:
    """The members' values of each row in one line [N, M·C], member after member."""
    return logs_MNC.transpose(1, 0, 2).reshape(logs_MNC.shape[1], -1)


def influence(linear_map: np.ndarray) -> np.ndarray:
    """One number [M] per member, one in sum: the mean size of its coefficients."""
    classes = linear_map.shape[1]
    sizes = np.abs(linear_map[:-1]).reshape(-1, classes * classes).mean(1)
    return sizes / sizes.sum() if sizes.any() else np.full(len(sizes), 1 / len(sizes))


def fit_temperature(logits_NC: np.ndarray, labels_N: np.ndarray, spread: float | None = None) -> float:
    """The temperature between .2 and 5 with the lowest NLL on these rows; 1 where none is lower than without.

    Args:
        logits_NC: What it divides.
        labels_N: Class ids.
        spread: Standard deviation of a normal prior on log T around T = 1, which keeps few rows from saying much.
    """
    weight = 0.0 if spread is None else 1 / (2 * spread**2 * len(labels_N))

    def loss(log_temperature: float) -> float:
        nll = row_nll(logits_NC / np.exp(log_temperature), labels_N).mean()
        return float(nll + weight * log_temperature**2)

    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


@dataclass(frozen=True, eq=False)
class Pooling:
    """The ensemble in use: `weights` [M] or a linear map [M·C + 1, C], the pool, and the temperature after it."""

    weights: np.ndarray
    pool: str
    temperature: float = 1.0

    @property
    def active(self) -> np.ndarray:
        """Positions of the members that count, rising; a linear map needs them all."""
        if self.weights.ndim == 2:
            return np.arange((self.weights.shape[0] - 1) // self.weights.shape[1])
        return np.flatnonzero(self.weights > 0)

    def narrowed(self) -> Pooling:
        """The same pooling for logits of the active members alone."""
        return self if self.weights.ndim == 2 else replace(self, weights=self.weights[self.active])

    def apply(self, logits_MNC: np.ndarray) -> np.ndarray:
        """Logits [N, C] of the ensemble."""
        return pool_logits(logits_MNC, self.weights, self.pool, self.temperature)
