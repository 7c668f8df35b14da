"""Greedy selection with replacement. M members, N rows, B rows of a block, C classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from distillery.ops.log_probs import FLOOR, Block, LogProbs
from distillery.weightings import WEIGHTINGS


def _seconds(pool: str, members: int, classes: int, rows: int, *, rounds: int, bags: int, **options: object) -> float:
    """Each pick of each bag looks at every member's pool: a log pool sums over all classes."""
    return 4e-9 * bags * rounds * members * rows * (classes if pool == "logits" else 2)


# Ten rows for each member, as for convex weights, of which these are a coarse form.
@WEIGHTINGS.register("greedy", min_rows=lambda members, classes: 10 * members, seconds=_seconds)
def greedy(
    probs: LogProbs | np.ndarray,
    labels_N: np.ndarray,
    pool: str,
    *,
    rounds: int = 50,
    bags: int = 10,
    seed: int = 0,
) -> np.ndarray:
    """Weights [M]: how often each member is picked when the pool's NLL is lowered step by step, averaged over bags.

    Caruana et al. 2004, "Ensemble selection from libraries of models": with replacement, best prefix kept, and the
    whole repeated on bootstrap samples of the rows.

    Args:
        rounds: Picks in one bag.
        bags: Bootstrap repetitions.
        seed: Of the bootstrap.
    """
    generator = np.random.default_rng(seed)
    log_probs, n_rows = LogProbs.of(probs), len(labels_N)
    weights = []
    for _ in range(bags):
        # a row that was drawn three times counts three times, but is looked at once
        rows, counts = np.unique(generator.integers(0, n_rows, n_rows), return_counts=True)
        weights.append(_select(log_probs.at(rows), labels_N[rows], counts, pool, rounds))
    return np.asarray(np.mean(weights, axis=0))


def _select(log_probs: LogProbs, labels_N: np.ndarray, counts_N: np.ndarray, pool: str, rounds: int) -> np.ndarray:
    """Weights [M] from one bag, in which each row was drawn so many times."""
    members, rows, classes = log_probs.shape
    linear = pool != "logits"
    blocks = _at_label(log_probs, labels_N) if linear else log_probs.blocks
    nll = _linear_pool_nll if linear else _log_pool_nll
    total = np.zeros((rows, 1 if linear else classes))
    picks: list[int] = []
    best, best_length = np.inf, 1
    for size in range(1, rounds + 1):
        losses_M = np.zeros(members)
        for part, scores in blocks():
            if picks:
                total[part] += scores[picks[-1]]
            losses_M += nll((total[part] + scores) / size, labels_N[part]) @ counts_N[part]
        losses_M /= counts_N.sum()
        picks.append(int(np.argmin(losses_M)))
        if losses_M[picks[-1]] < best - 1e-9:
            best, best_length = losses_M[picks[-1]], size
    return np.bincount(picks[:best_length], minlength=members) / best_length


def _at_label(log_probs: LogProbs, labels_N: np.ndarray) -> Callable[[], Iterable[Block]]:
    """All that a linear pool's NLL needs, what the members give the label [M, N, 1], as one block."""
    whole = [(slice(0, len(labels_N)), np.exp(log_probs.at_label(labels_N))[:, :, None])]
    return lambda: whole


def _log_pool_nll(pooled_MBC: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    """NLL [M, B] of the log pool that each member would make; the pooled log-probabilities are overwritten."""
    members, rows, classes = pooled_MBC.shape
    at_label_MB = pooled_MBC[:, np.arange(rows), labels_B]
    probs = np.exp(pooled_MBC, out=pooled_MBC).reshape(-1, classes)
    # sums over classes by a product: of few classes they are ten times as fast
    return np.log(probs @ np.ones(classes)).reshape(members, rows) - at_label_MB


def _linear_pool_nll(pooled_MB1: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    """NLL [M, B] of the linear pool that each member would make, from its probability of the label."""
    return np.asarray(-np.log(np.maximum(pooled_MB1[:, :, 0], FLOOR)))
