"""Greedy selection with replacement. M members, N rows, C classes."""

from __future__ import annotations

import numpy as np

from distillery.pooling import FLOOR
from distillery.weightings import WEIGHTINGS


# Ten rows for each member, as for convex weights, of which these are a coarse form.
@WEIGHTINGS.register("greedy", min_rows=lambda members, classes: 10 * members)
def greedy(
    probs_MNC: np.ndarray, labels_N: np.ndarray, pool: str, *, rounds: int = 50, bags: int = 10, seed: int = 0
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
    n_rows = len(labels_N)
    # a linear pool's NLL needs only what the members give the label; scores are [M, C or 1, N], sums then run fast
    at_label_MN = probs_MNC[:, np.arange(n_rows), labels_N]
    scores = np.log(np.maximum(probs_MNC, FLOOR)).transpose(0, 2, 1) if pool == "logits" else at_label_MN[:, None]
    weights = []
    for _ in range(bags):
        rows = generator.integers(0, n_rows, n_rows)
        weights.append(_select(np.ascontiguousarray(scores[:, :, rows]), labels_N[rows], pool, rounds))
    return np.asarray(np.mean(weights, axis=0))


def _select(scores: np.ndarray, labels_N: np.ndarray, pool: str, rounds: int) -> np.ndarray:
    total = np.zeros(scores.shape[1:])
    picks: list[int] = []
    best, best_length = np.inf, 1
    for size in range(1, rounds + 1):
        losses = _nll((total + scores) / size, labels_N, pool)
        picks.append(int(np.argmin(losses)))
        total += scores[picks[-1]]
        if losses[picks[-1]] < best - 1e-9:
            best, best_length = losses[picks[-1]], size
    return np.bincount(picks[:best_length], minlength=len(scores)) / best_length


def _nll(pooled: np.ndarray, labels_N: np.ndarray, pool: str) -> np.ndarray:
    """NLL [M] of the pool that each member would make, from [M, C or 1, N]."""
    if pool == "logits":
        at_label_MN = pooled[:, labels_N, np.arange(len(labels_N))]
        return np.asarray((np.log(np.exp(pooled).sum(1)) - at_label_MN).mean(1))
    return np.asarray(-np.log(np.maximum(pooled[:, 0], FLOOR)).mean(1))
