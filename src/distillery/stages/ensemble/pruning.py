"""Which members an ensemble can do without. M members, N rows, C classes, K folds.

The cost of labelling training rows grows with the number of members; the last of them seldom change the ensemble.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.special import logsumexp

from distillery.memory import room
from distillery.ops.log_probs import log_softmax_of
from distillery.ops.metrics import row_blocks, row_nll
from distillery.ops.pooling import fit_temperature, pool_log_probs

SMALLEST = 0.02  # a lower weight is dropped at once
ONE_SIDED_95 = 1.645

# Positions of members -> their weights fitted on all rows, and on all rows but each fold's.
Fit = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Part:
    """Some members: their positions, rising, their weights, and for each fold those fitted without it [K, members]."""

    kept: np.ndarray
    weights: np.ndarray
    fold_weights: np.ndarray

    def without(self, places: list[int]) -> Part | None:
        """The other members with their weights scaled up; None where these have no weight in some fold."""
        weights, by_fold = np.delete(self.weights, places), np.delete(self.fold_weights, places, axis=1)
        if min(weights.sum(), by_fold.sum(1).min()) < 1e-6:
            return None
        return Part(np.delete(self.kept, places), weights / weights.sum(), by_fold / by_fold.sum(1, keepdims=True))


@dataclass(frozen=True)
class Pruned:
    """The members kept, and the cross-fitted NLL with all members and with these."""

    part: Part
    nll_before: float
    nll_after: float
    loss_high: float  # upper 95 % bound of what the NLL loses


@dataclass(frozen=True)
class Judge:
    """The rows on which ensembles of fewer members are compared with the whole one.

    Attributes:
        logits_MNC: The members' logits, perhaps a file's.
        labels_N: Labels of the rows.
        folds_N: Their folds.
        pool: ``probs`` or ``logits``.
        calibrated: Whether a temperature follows. Each ensemble is then taken with its own, or fewer members would
            pass for better ones where the mean of many is underconfident.
        folder: Where what does not fit into memory may lie; None for the system's folder of temporary files.
    """

    logits_MNC: np.ndarray
    labels_N: np.ndarray
    folds_N: np.ndarray
    pool: str
    calibrated: bool = False
    folder: Path | None = None

    def losses(self, part: Part) -> np.ndarray:
        """NLL [N] of the rows, each under the weights that were fitted without it."""
        weights_MN = part.fold_weights[self.folds_N].T
        if self.pool == "probs" and not self.calibrated:
            return np.asarray(-logsumexp(self._at_label_MN[part.kept], b=weights_MN, axis=0))
        if self.calibrated:
            return self._calibrated_losses(part, weights_MN)
        nll_N = np.empty(len(self.labels_N))
        for rows in self._blocks(part):
            nll_N[rows] = row_nll(self._pooled(part, weights_MN, rows), self.labels_N[rows])
        return nll_N

    def seconds(self) -> float:
        """About how long it takes to prune, on one core: every member is tried, again and again, for being left out."""
        members, rows, classes = self.logits_MNC.shape
        tries = members * (members + 1) / 2
        if self.pool == "probs" and not self.calibrated:
            return 1e-8 * tries * rows * members
        each_cell = 8e-9 * members / 2 + (1.2e-7 if self.calibrated else 4e-9)
        return tries * rows * classes * each_cell

    @cached_property
    def _at_label_MN(self) -> np.ndarray:
        """Log-probability of each row's label: all that the mean of a linear pool needs, whose classes sum to one."""
        members, rows, classes = self.logits_MNC.shape
        at_label_MN = np.empty((members, rows))
        for part in row_blocks(rows, members * classes):
            logs_MBC = log_softmax_of(self.logits_MNC[:, part])
            at_label_MN[:, part] = logs_MBC[:, np.arange(logs_MBC.shape[1]), self.labels_N[part]]
        return at_label_MN

    def _calibrated_losses(self, part: Part, weights_MN: np.ndarray) -> np.ndarray:
        pooled_NC = room(self.logits_MNC.shape[1:], np.float64, self.folder)
        for rows in self._blocks(part):
            pooled_NC[rows] = self._pooled(part, weights_MN, rows)
        temperature = fit_temperature(pooled_NC, self.labels_N)
        return row_nll(pooled_NC, self.labels_N, temperature)

    def _blocks(self, part: Part) -> Iterator[slice]:
        return row_blocks(self.logits_MNC.shape[1], len(part.kept) * self.logits_MNC.shape[2])

    def _pooled(self, part: Part, weights_MN: np.ndarray, rows: slice) -> np.ndarray:
        return pool_log_probs(log_softmax_of(self.logits_MNC[part.kept, rows]), weights_MN[:, rows], self.pool)


def prune(judge: Judge, fit: Fit, *, tolerance: float) -> Pruned:
    """Drops small weights, then the least missed member again and again; refits where that is better than scaling.

    Every step is judged against all members, on rows that the weights were not fitted on, and is taken only while the
    upper bound of the loss stays below the tolerance. The members are chosen on the rows that judge them, so the loss
    is told a little too small.
    """
    everyone = np.arange(len(judge.logits_MNC))
    part = Part(everyone, *fit(everyone))
    whole_N = judge.losses(part)

    def better(scaled: Part | None, before: Part) -> Part:
        """The better of scaled and fitted weights, if the tolerance lets it pass."""
        if scaled is None or len(scaled.kept) == len(everyone):
            return before
        tried = min((scaled, Part(scaled.kept, *fit(scaled.kept))), key=lambda p: judge.losses(p).mean())
        return tried if upper(judge.losses(tried) - whole_N) < tolerance else before

    # half of an equal share where that is less: of a hundred equal members none is small
    small = np.flatnonzero(part.weights < min(SMALLEST, 0.5 / len(everyone)))
    part = better(part.without(small.tolist()), part)
    part = _eliminate(judge, part, whole_N, tolerance)
    part = better(part, part)
    final_N = judge.losses(part)
    return Pruned(part, float(whole_N.mean()), float(final_N.mean()), upper(final_N - whole_N))


def _eliminate(judge: Judge, part: Part, whole_N: np.ndarray, tolerance: float) -> Part:
    while len(part.kept) > 1:
        tried = [rest for place in range(len(part.kept)) if (rest := part.without([place])) is not None]
        losses = [judge.losses(rest) for rest in tried]
        best = min(range(len(tried)), key=lambda i: losses[i].mean(), default=None)
        if best is None or upper(losses[best] - whole_N) >= tolerance:
            break
        part = tried[best]
    return part


def upper(difference_N: np.ndarray) -> float:
    """Upper 95 % bound of the mean of paired differences, one-sided.

    By the normal approximation: for the mean of a hundred rows or more it is where the bootstrap's percentile lies,
    at a thousandth of the time.
    """
    return float(difference_N.mean() + ONE_SIDED_95 * difference_N.std(ddof=1) / np.sqrt(len(difference_N)))
