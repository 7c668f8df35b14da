"""How ensemble weights are found. One file here = one weighting that a config can name.

A weighting is a function ``(probs, labels_N, pool, **options)`` that gives weights [M] on the simplex or, with the
trait ``stacks=True``, a linear map [M·C + 1, C] from the members' log-probabilities, side by side and the bias last, to
logits. `probs` are probabilities [M, N, C], or `LogProbs`, which are read by blocks of rows: all of them at once may be
more than memory holds. M members, N rows, C classes, S settings.

Its trait `min_rows` is a function ``(members, classes) -> rows``: with fewer rows than that it is not tried. Its trait
`seconds` is a function ``(pool, members, classes, rows, **options) -> seconds``: about how long one call takes on one
core, as it was measured on one of 2.3 GHz with AVX-512 (`benchmarks/memory.py` runs the largest of them). What would
take too long is tried only if the config names it. It is an estimate from sizes, not a clock, so that the same config
on the same data tries the same weightings on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import numpy as np

from distillery.registry import Registry


class Traits(TypedDict, total=False):
    """Facts about a weighting, see above."""

    stacks: bool
    min_rows: Callable[[int, int], int]
    seconds: Callable[..., float]
    check: Callable[[dict[str, object]], object]


WEIGHTINGS: Registry[np.ndarray, Traits] = Registry("weighting", "distillery.weightings", Traits)


def deal(labels_N: np.ndarray, folds: int) -> np.ndarray:
    """A fold for each row [N]; classes are dealt out evenly, in row order, so that the folds never change."""
    fold_of = np.empty(len(labels_N), np.int64)
    fold_of[np.argsort(labels_N, kind="stable")] = np.arange(len(labels_N)) % folds
    return fold_of


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
