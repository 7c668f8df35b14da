"""Greedy selection with replacement. M members, N rows, C classes."""

from __future__ import annotations

import numpy as np

from distillery.weightings import WEIGHTINGS


@WEIGHTINGS.register("greedy")
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
    scores_MNC = np.log(np.maximum(probs_MNC, 1e-12)) if pool == "logits" else probs_MNC
    samples = [generator.integers(0, len(labels_N), len(labels_N)) for _ in range(bags)]
    weights = [_select(scores_MNC[:, rows], labels_N[rows], pool, rounds) for rows in samples]
    return np.asarray(np.mean(weights, axis=0))


def _select(scores_MNC: np.ndarray, labels_N: np.ndarray, pool: str, rounds: int) -> np.ndarray:
    n_members, n_rows, _ = scores_MNC.shape
    rows = np.arange(n_rows)
    total_NC = np.zeros(scores_MNC.shape[1:])
    picks: list[int] = []
    best, best_length = np.inf, 1
    for size in range(1, rounds + 1):
        losses = [_nll((total_NC + scores_MNC[m]) / size, rows, labels_N, pool) for m in range(n_members)]
        picks.append(int(np.argmin(losses)))
        total_NC += scores_MNC[picks[-1]]
        if losses[picks[-1]] < best - 1e-9:
            best, best_length = losses[picks[-1]], size
    return np.bincount(picks[:best_length], minlength=n_members) / best_length


def _nll(pooled_NC: np.ndarray, rows: np.ndarray, labels_N: np.ndarray, pool: str) -> float:
    if pool == "logits":
        top = pooled_NC.max(-1, keepdims=True)
        return float((np.log(np.exp(pooled_NC - top).sum(-1)) + top[:, 0] - pooled_NC[rows, labels_N]).mean())
    return float(-np.log(np.maximum(pooled_NC[rows, labels_N], 1e-12)).mean())
