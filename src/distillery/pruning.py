"""Which members an ensemble can do without. M members, N rows, C classes, K folds.

The cost of labelling training rows grows with the number of members; the last of them seldom change the ensemble.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, logsumexp

from distillery.metrics import row_nll
from distillery.pooling import fit_temperature

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
        logits_MNC: The members' logits.
        labels_N: Labels of the rows.
        folds_N: Their folds.
        pool: ``probs`` or ``logits``.
        calibrated: Whether a temperature follows. Each ensemble is then taken with its own, or fewer members would
            pass for better ones where the mean of many is underconfident.
    """

    logits_MNC: np.ndarray
    labels_N: np.ndarray
    folds_N: np.ndarray
    pool: str
    calibrated: bool = False

    def losses(self, part: Part) -> np.ndarray:
        """NLL [N] of the rows, each under the weights that were fitted without it."""
        logs_MNC = log_softmax(self.logits_MNC[part.kept].astype(np.float64), axis=-1)
        weights = part.fold_weights[self.folds_N].T[:, :, None]
        pooled_NC = logsumexp(logs_MNC, b=weights, axis=0) if self.pool == "probs" else (weights * logs_MNC).sum(0)
        temperature = fit_temperature(pooled_NC, self.labels_N) if self.calibrated else 1.0
        return row_nll(pooled_NC / temperature, self.labels_N)


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
