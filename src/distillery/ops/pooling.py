"""How the members' logits become the ensemble's. M members, N rows, C classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar

from distillery.ops.log_probs import LOG_FLOOR, log_softmax_of
from distillery.ops.metrics import BLOCK_BYTES, row_blocks, row_nll

__all__ = ["Pooling", "fit_temperature", "influence", "pool_logits", "pooled_blocks", "side_by_side"]

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
    pooled_NC = np.empty(logits_MNC.shape[1:])
    for rows, pooled_BC in pooled_blocks(logits_MNC, weights, pool):
        np.divide(pooled_BC, temperature, out=pooled_NC[rows])
    return pooled_NC


def pooled_blocks(
    logits_MNC: np.ndarray, weights: np.ndarray, pool: str, rows_B: np.ndarray | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """What `pool_logits` gives, block by block: the places of some rows, and their logits [B, C].

    Args:
        logits_MNC: The members' logits.
        weights: See `pool_logits`.
        pool: See `pool_logits`.
        rows_B: The rows that are wanted, by their numbers; None for all.
    """
    members, rows, classes = logits_MNC.shape
    count = rows if rows_B is None else len(rows_B)
    active = np.arange(members) if weights.ndim == 2 else np.flatnonzero(weights > 0)
    # a linear map is read once for each block, so that a block should not be much smaller than the map
    size = max(BLOCK_BYTES, weights.nbytes)
    for part in row_blocks(count, len(active) * classes, size):
        ids = np.arange(part.start, part.stop) if rows_B is None else rows_B[part]
        logs_MBC = log_softmax_of(logits_MNC[active[:, None], ids])
        if weights.ndim == 2:
            inputs = side_by_side(np.maximum(logs_MBC, LOG_FLOOR, out=logs_MBC))
            yield part, inputs @ weights[:-1] + weights[-1]
        else:
            yield part, pool_log_probs(logs_MBC, weights[active][:, None], pool)


def pool_log_probs(logs_MBC: np.ndarray, weights_MB: np.ndarray, pool: str) -> np.ndarray:
    """Logits [B, C] of the ensemble from log-probabilities, which are overwritten, and weights [M, B] or [M, 1]."""
    weights_MB1 = weights_MB[:, :, None]
    if pool == "logits":
        logs_MBC *= weights_MB1
        return np.asarray(logs_MBC.sum(0))
    if not weights_MB.all():
        np.copyto(logs_MBC, -np.inf, where=weights_MB1 == 0)  # else it could be the largest, and the others vanish
    peak_BC = logs_MBC.max(0)
    logs_MBC -= peak_BC
    np.exp(logs_MBC, out=logs_MBC)
    logs_MBC *= weights_MB1
    return np.asarray(np.log(logs_MBC.sum(0)) + peak_BC)


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
        nll = row_nll(logits_NC, labels_N, np.exp(log_temperature)).mean()
        return float(nll + weight * log_temperature**2)

    low, high = np.log(TEMPERATURES)
    minimum = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(minimum.x)) if minimum.fun < loss(0.0) else 1.0


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
