"""How ensemble weights are found. One file here = one weighting that a config can name.

A weighting is a function ``(probs_MNC, labels_N, pool, **options)`` that gives weights [M] on the simplex or, with the
trait ``stacks=True``, a linear map [M·C + 1, C] from the members' log-probabilities, side by side and the bias last, to
logits. Its trait `min_rows` is a function ``(members, classes) -> rows``: with fewer rows than that it is not tried.
M members, N rows, C classes, S settings.
"""

from __future__ import annotations

import numpy as np

from distillery.registry import Registry

WEIGHTINGS = Registry("weighting", "distillery.weightings")


def deal(labels_N: np.ndarray, folds: int) -> np.ndarray:
    """A fold for each row [N]; classes are dealt out evenly, in row order, so that the folds never change."""
    found = np.empty(len(labels_N), np.int64)
    found[np.argsort(labels_N, kind="stable")] = np.arange(len(labels_N)) % folds
    return found


def one_standard_error(losses_SN: np.ndarray) -> int:
    """The last setting that is no worse than the best one by more than a standard error (Breiman et al. 1984).

    The error is that of the mean difference to the best setting, row by row: settings agree on which rows are hard, so
    the error of the mean loss itself would let everything pass.

    Args:
        losses_SN: Held-out loss of each row under each setting, from the least to the most regularised.
    """
    best = int(np.argmin(losses_SN.mean(1)))
    excess = losses_SN[best:] - losses_SN[best]
    error = excess.std(1, ddof=1) / np.sqrt(losses_SN.shape[1])
    return best + int(np.flatnonzero(excess.mean(1) <= error)[-1])
