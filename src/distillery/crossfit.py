"""What an ensemble is worth on rows that its weights were not fitted on. M members, N rows, C classes, K folds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import softmax

from distillery.config import Weighting
from distillery.metrics import paired_difference, row_nll
from distillery.pooling import fit_temperature, pool_logits
from distillery.weightings import WEIGHTINGS, deal

RESAMPLES = 2000
ROUNDING = 1e-9  # nats; a gain below this is the arithmetic's


@dataclass(frozen=True)
class Votes:
    """What the members say on the rows of val_ensemble, and the fold of each row."""

    logits_MNC: np.ndarray
    probs_MNC: np.ndarray
    labels_N: np.ndarray
    folds_N: np.ndarray

    @classmethod
    def dealt(cls, logits_MNC: np.ndarray, labels_N: np.ndarray, folds: int) -> Votes:
        """The votes with their rows dealt out to folds."""
        return cls(logits_MNC, softmax(logits_MNC.astype(np.float64), axis=-1), labels_N, deal(labels_N, folds))

    def of(self, members: np.ndarray) -> Votes:
        """The votes of some members."""
        return replace(self, logits_MNC=self.logits_MNC[members], probs_MNC=self.probs_MNC[members])


@dataclass(frozen=True)
class Candidate:
    """A weighting and the pool that its weights are for."""

    weighting: Weighting
    pool: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.weighting.name} weights, {self.pool} pool"

    @property
    def stacks(self) -> bool:
        """Whether the result is a linear map instead of weights."""
        return bool(WEIGHTINGS.traits(self.weighting.name).get("stacks", False))

    def fit(self, votes: Votes, rows: np.ndarray) -> np.ndarray:
        """Weights [M] or a linear map [M·C + 1, C] from the rows of a mask [N]."""
        function = WEIGHTINGS[self.weighting.name]
        found = function(votes.probs_MNC[:, rows], votes.labels_N[rows], self.pool, **self.weighting.options)
        return np.asarray(found)


@dataclass(frozen=True)
class Judged:
    """A candidate fitted on all rows, and its logits from fits that had not seen the row.

    Attributes:
        members: Positions of the members that took part.
        weights: Weights of these members, or their linear map.
        fold_weights: The same for each fold [K, ..].
        temperature: What divides the pooled logits; 1 unless it lowers the cross-fitted NLL beyond chance.
        plain_NC: Cross-fitted logits without temperature.
        calibrated_NC: The same after a temperature that had not seen the row either.
    """

    members: np.ndarray
    weights: np.ndarray
    fold_weights: np.ndarray
    temperature: float
    plain_NC: np.ndarray
    calibrated_NC: np.ndarray

    @property
    def pooled_NC(self) -> np.ndarray:
        """Cross-fitted logits [N, C] of the candidate as it would be used."""
        return self.plain_NC if self.temperature == 1 else self.calibrated_NC


def judge(candidate: Candidate, votes: Votes, members: np.ndarray) -> Judged:
    """A candidate's weights and temperature, fitted in each fold on the other folds' rows, and on all rows."""
    part = votes.of(members)
    return assess(candidate.pool, part, members, *fits(candidate, part))


def fits(candidate: Candidate, votes: Votes) -> tuple[np.ndarray, np.ndarray]:
    """Weights from all rows, and for each fold [K, ..] from the other folds' rows."""
    by_fold = [candidate.fit(votes, votes.folds_N != fold) for fold in range(votes.folds_N.max() + 1)]
    return candidate.fit(votes, votes.folds_N >= 0), np.stack(by_fold)


def assess(pool: str, votes: Votes, members: np.ndarray, weights: np.ndarray, fold_weights: np.ndarray) -> Judged:
    """What given weights of the members, whose votes these are, are worth."""
    plain_NC = np.empty(votes.probs_MNC.shape[1:])
    calibrated_NC = np.empty_like(plain_NC)
    for fold, found in enumerate(fold_weights):
        fit_on, judge_on = votes.folds_N != fold, votes.folds_N == fold
        pooled_NC = pool_logits(votes.logits_MNC, found, pool)
        plain_NC[judge_on] = pooled_NC[judge_on]
        calibrated_NC[judge_on] = pooled_NC[judge_on] / fit_temperature(pooled_NC[fit_on], votes.labels_N[fit_on])
    temperature = 1.0
    # gated: on few rows a temperature does harm as easily as good
    if _gain(plain_NC, calibrated_NC, votes.labels_N, 0.95)[1] > ROUNDING:
        temperature = fit_temperature(pool_logits(votes.logits_MNC, weights, pool), votes.labels_N)
    return Judged(members, weights, fold_weights, temperature, plain_NC, calibrated_NC)


def gain(reference: Judged, other: Judged, labels_N: np.ndarray, candidates: int) -> tuple[float, float, float]:
    """(how much lower the other's cross-fitted NLL is, lower, upper bound), from a paired bootstrap over rows.

    Weights on the simplex are compared without any temperature: it hides on the rows at hand how much worse weak
    members make a mean, which costs accuracy all the same. A linear map can sharpen as a temperature does, so it is
    compared with one on both sides, or a sharper pool would pass for a better one. The best candidate is the largest of
    several chance results: by Bonferroni, the intervals of all `candidates` together hold with 95 %.
    """
    confidence = 1 - 0.05 / max(1, candidates - 1)
    if other.weights.ndim == 2:
        return _gain(reference.pooled_NC, other.pooled_NC, labels_N, confidence)
    return _gain(reference.plain_NC, other.plain_NC, labels_N, confidence)


def _gain(
    before_NC: np.ndarray, after_NC: np.ndarray, labels_N: np.ndarray, confidence: float
) -> tuple[float, float, float]:
    losses = row_nll(before_NC, labels_N), row_nll(after_NC, labels_N)
    found = paired_difference(*losses, resamples=RESAMPLES, confidence=confidence)
    return found.value or 0.0, found.low or 0.0, found.high or 0.0
