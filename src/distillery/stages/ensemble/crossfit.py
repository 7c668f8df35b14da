"""What an ensemble is worth on rows that its weights were not fitted on. M members, N rows, C classes, K folds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distillery.config.experiment import Weighting
from distillery.memory import room
from distillery.ops.log_probs import LogProbs
from distillery.ops.metrics import RowScores
from distillery.ops.pooling import fit_temperature, pooled_blocks
from distillery.weightings import WEIGHTINGS, deal

BEYOND_CHANCE = 2.0  # standard errors
ROUNDING = 1e-9  # nats; a gain below this is the arithmetic's


@dataclass(frozen=True, eq=False)
class Votes:
    """What some members say on the rows of val_ensemble, and the fold of each row.

    Attributes:
        logits_MNC: Of all members, perhaps a file's.
        log_probs: Of the members that count.
        members: Their positions.
        labels_N: The labels.
        folds_N: The folds.
        folder: Where what does not fit into memory may lie; None for the system's folder of temporary files.
    """

    logits_MNC: np.ndarray
    log_probs: LogProbs
    members: np.ndarray
    labels_N: np.ndarray
    folds_N: np.ndarray
    folder: Path | None = None

    @classmethod
    def dealt(cls, logits_MNC: np.ndarray, labels_N: np.ndarray, folds: int, folder: Path | None = None) -> Votes:
        """The votes with their rows dealt out to folds."""
        log_probs, members = LogProbs.of_logits(logits_MNC), np.arange(len(logits_MNC))
        return cls(logits_MNC, log_probs, members, labels_N, deal(labels_N, folds), folder)

    def of(self, members: np.ndarray) -> Votes:
        """The votes of some members, out of all of them."""
        return replace(self, log_probs=self.log_probs.of_members(members), members=members)

    def spread(self, weights: np.ndarray) -> np.ndarray:
        """Weights of these members as weights of all members; a linear map as it is."""
        if weights.ndim == 2:
            return weights
        spread = np.zeros(len(self.logits_MNC))
        spread[self.members] = weights
        return spread


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
        function, places = WEIGHTINGS[self.weighting.name], np.flatnonzero(rows)
        found = function(votes.log_probs.at(places), votes.labels_N[places], self.pool, **self.weighting.options)
        return np.asarray(found)

    def seconds(self, members: int, classes: int, rows: int, folds: int) -> float:
        """About how long all fits take; see `distillery.weightings`."""
        one = WEIGHTINGS.traits(self.weighting.name)["seconds"]
        return float((folds + 1) * one(self.pool, members, classes, rows, **self.weighting.options))


@dataclass(frozen=True)
class Judged:
    """A candidate fitted on all rows, and its scores on each row from fits that had not seen the row.

    Attributes:
        members: Positions of the members that took part.
        weights: Weights of these members, or their linear map.
        fold_weights: The same for each fold [K, ..].
        temperature: What divides the pooled logits; 1 unless it lowers the cross-fitted NLL beyond chance.
        plain: Cross-fitted scores without temperature.
        calibrated: The same after a temperature that had not seen the row either.
    """

    members: np.ndarray
    weights: np.ndarray
    fold_weights: np.ndarray
    temperature: float
    plain: RowScores
    calibrated: RowScores

    @property
    def used(self) -> RowScores:
        """Cross-fitted scores of the candidate as it would be used."""
        return self.plain if self.temperature == 1 else self.calibrated


def judge(candidate: Candidate, votes: Votes) -> Judged:
    """A candidate's weights and temperature, fitted in each fold on the other folds' rows, and on all rows."""
    return assess(candidate.pool, votes, *fits(candidate, votes))


def fits(candidate: Candidate, votes: Votes) -> tuple[np.ndarray, np.ndarray]:
    """Weights from all rows, and for each fold [K, ..] from the other folds' rows."""
    by_fold = [candidate.fit(votes, votes.folds_N != fold) for fold in range(votes.folds_N.max() + 1)]
    return candidate.fit(votes, votes.folds_N >= 0), np.stack(by_fold)


def assess(pool: str, votes: Votes, weights: np.ndarray, fold_weights: np.ndarray) -> Judged:
    """What given weights of the members, whose votes these are, are worth."""
    labels_N = votes.labels_N
    plain, calibrated = RowScores.empty(len(labels_N)), RowScores.empty(len(labels_N))
    for fold, found in enumerate(fold_weights):
        temperature = _temperature(pool, votes, found, np.flatnonzero(votes.folds_N != fold))
        judge_on = np.flatnonzero(votes.folds_N == fold)
        for part, pooled_BC in pooled_blocks(votes.logits_MNC, votes.spread(found), pool, judge_on):
            places = judge_on[part]
            plain.put(places, pooled_BC, labels_N[places])
            calibrated.put(places, pooled_BC / temperature, labels_N[places])
    temperature = 1.0
    # gated: on few rows a temperature does harm as easily as good
    if _gain(plain, calibrated, BEYOND_CHANCE)[1] > ROUNDING:
        temperature = _temperature(pool, votes, weights, np.arange(len(labels_N)))
    return Judged(votes.members, weights, fold_weights, temperature, plain, calibrated)


def _temperature(pool: str, votes: Votes, weights: np.ndarray, rows: np.ndarray) -> float:
    """The temperature that fits some rows best after pooling by these weights."""
    pooled_NC = room((len(rows), votes.logits_MNC.shape[2]), np.float64, votes.folder)
    for part, pooled_BC in pooled_blocks(votes.logits_MNC, votes.spread(weights), pool, rows):
        pooled_NC[part] = pooled_BC
    return fit_temperature(pooled_NC, votes.labels_N[rows])


def gain(reference: Judged, other: Judged) -> tuple[float, float, float]:
    """(how much lower the other's cross-fitted NLL is, and that less and plus one standard error), over paired rows.

    Weights on the simplex are compared without any temperature: it hides on the rows at hand how much worse weak
    members make a mean, which costs accuracy all the same. A linear map can sharpen as a temperature does, so it is
    compared with one on both sides, or a sharper pool would pass for a better one.
    """
    if other.weights.ndim == 2:
        return _gain(reference.used, other.used)
    return _gain(reference.plain, other.plain)


def _gain(before: RowScores, after: RowScores, errors: float = 1.0) -> tuple[float, float, float]:
    """The mean difference, and that less and plus so many standard errors."""
    difference_N = before.nll - after.nll
    value = float(difference_N.mean())
    error = float(difference_N.std() / np.sqrt(len(difference_N)))
    return value, value - errors * error, value + errors * error
