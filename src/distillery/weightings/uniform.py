"""Every member counts the same."""

from __future__ import annotations

import numpy as np

from distillery.ops.log_probs import LogProbs
from distillery.weightings import WEIGHTINGS


def _seconds(pool: str, members: int, classes: int, rows: int, **options: object) -> float:
    return 0.0


@WEIGHTINGS.register("uniform", min_rows=lambda members, classes: 0, seconds=_seconds)
def uniform(probs: LogProbs | np.ndarray, labels_N: np.ndarray, pool: str) -> np.ndarray:
    """``w = 1 / M``."""
    members = probs.shape[0]
    return np.full(members, 1 / members)
