"""What the members of an ensemble have in common: logits for rows of the dataset. B rows, C classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import nn

from distillery.memory import blocks
from distillery.models import GivenLogits
from distillery.ops.encoded_rows import Encoded
from distillery.ops.log_probs import TEACHER_FLOOR
from distillery.ops.pooling import pool_logits
from distillery.stages.data.folds import NO_FOLD
from distillery.training.single import predict


class Member(Protocol):
    """Anything that gives logits for rows of the dataset."""

    def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Float32 [B, C] for encoded rows [B, ...], which are the rows [B] of the source."""


def logits_of(member: Member, inputs: Encoded, rows: np.ndarray) -> np.ndarray:
    """Logits float32 [N, C] of a member for some rows [N] of the encoded source, which is read by the block."""
    parts = [rows[part] for part in blocks(len(rows), inputs[:1].nbytes)]
    return np.concatenate([member.logits(inputs[part], part) for part in parts])


@dataclass(frozen=True)
class NetworkMember:
    """A trained network."""

    network: nn.Module
    device: str = "cpu"

    def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Logits of the network, evaluation mode."""
        return predict(self.network, inputs, device=self.device)


@dataclass(frozen=True)
class EstimatorMember:
    """A fitted classifier; its logits are log-probabilities, cut off at `TEACHER_FLOOR`."""

    estimator: Any
    classes: int

    def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Log-probabilities of the classifier; of a class that it has never seen, the cut-off."""
        found = self.estimator.predict_proba(inputs.reshape(len(inputs), -1))
        if found.shape[1] == self.classes:
            probs = found
        else:
            probs = np.zeros((len(found), self.classes))
            probs[:, self.estimator.classes_] = found
        return np.log(np.clip(probs, TEACHER_FLOOR, 1.0)).astype(np.float32)


@dataclass(frozen=True)
class FoldsMember:
    """One model for each fold of train, trained without it.

    A row of train, and any view of it, is answered by the model that has not seen the row; every other row by the mean
    of all models' probabilities.

    Attributes:
        models: In the order of the folds.
        folds_N: Fold of each row of the source; `NO_FOLD` outside train.
        of_pairs: Models that were trained without two folds, by these, the lower one first; perhaps none.
    """

    models: Sequence[NetworkMember | EstimatorMember]
    folds_N: np.ndarray
    of_pairs: Mapping[tuple[int, int], NetworkMember | EstimatorMember] = field(default_factory=dict)

    def without(self, fold: int) -> FoldsMember:
        """The member as it teaches students that are judged on a fold: no model of it has learned that fold's rows.

        Models that were trained without one fold alone will not do: they have learned the labels of the fold that is
        judged, and would teach them.
        """
        pairs = [(min(fold, other), max(fold, other)) for other in range(len(self.models))]
        models = [self.models[fold] if low == high else self.of_pairs[low, high] for low, high in pairs]
        return FoldsMember(models, self.folds_N)

    def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Logits of the models of these rows."""
        folds_B = self.folds_N[rows]
        answers: list[tuple[np.ndarray, np.ndarray]] = []
        for fold, model in enumerate(self.models):
            own = np.flatnonzero(folds_B == fold)
            if len(own):
                answers.append((own, model.logits(inputs[own], rows[own])))
        others = np.flatnonzero(folds_B == NO_FOLD)
        if len(others):
            all_models = np.stack([model.logits(inputs[others], rows[others]) for model in self.models])
            alike = np.full(len(self.models), 1 / len(self.models))
            answers.append((others, pool_logits(all_models, alike, "probs")))

        logits = np.empty((len(rows), answers[0][1].shape[1]), np.float32)
        for places, found in answers:
            logits[places] = found
        return logits


@dataclass(frozen=True)
class GivenMember:
    """Logits from outside, looked up by row."""

    given: GivenLogits

    def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The given logits of these rows."""
        return self.given.logits[rows]
