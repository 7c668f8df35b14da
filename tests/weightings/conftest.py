"""Random votes of members of different skill. M members, N rows, C classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from distillery.ops.pooling import pool_logits

Votes = Callable[..., tuple[np.ndarray, np.ndarray]]
Loss = Callable[[np.ndarray, np.ndarray, np.ndarray, str], float]


@pytest.fixture(scope="session")
def votes() -> Votes:
    """A function that makes probabilities [M, N, C] and labels [N]; `skill` is drawn where it is not given."""

    def make(
        seed: int, members: int = 4, rows: int = 60, classes: int = 3, skill: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, classes, rows)
        drawn = generator.uniform(0.2, 2.0, (members, 1, 1))
        signal = (drawn if skill is None else skill) * np.eye(classes)[labels]
        return softmax(generator.normal(size=(members, rows, classes)) + signal, axis=-1), labels

    return make


@pytest.fixture(scope="session")
def nll() -> Loss:
    """A function that gives the negative log-likelihood of the pooled members."""

    def of(probs: np.ndarray, labels: np.ndarray, weights: np.ndarray, pool: str) -> float:
        pooled = log_softmax(pool_logits(np.log(probs), weights, pool), axis=-1)
        return float(-pooled[np.arange(len(labels)), labels].mean())

    return of
