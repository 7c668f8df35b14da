"""Every member counts the same."""

from __future__ import annotations

import numpy as np

from distillery.weightings import WEIGHTINGS


@WEIGHTINGS.register("uniform", min_rows=lambda members, classes: 0)
def uniform(probs_MNC: np.ndarray, labels_N: np.ndarray, pool: str) -> np.ndarray:
    """``w = 1 / M``."""
    return np.full(len(probs_MNC), 1 / len(probs_MNC))
