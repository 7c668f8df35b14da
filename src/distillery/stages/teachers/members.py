"""What the members of an ensemble have in common: logits for rows of the dataset. B rows, C classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import nn

from distillery.memory import blocks
from distillery.models import GivenLogits
from distillery.ops.encoded_rows import Encoded
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
    """A fitted classifier; its logits are log-probabilities, cut off at 1e-7."""

    estimator: Any

    def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Log-probabilities of the classifier."""
        probs = self.estimator.predict_proba(inputs.reshape(len(inputs), -1))
        return np.log(np.clip(probs, 1e-7, 1.0)).astype(np.float32)


@dataclass(frozen=True)
class GivenMember:
    """Logits from outside, looked up by row."""

    given: GivenLogits

    def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The given logits of these rows."""
        return self.given.logits[rows]
