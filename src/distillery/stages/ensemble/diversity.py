"""How much the members differ, and what that is worth. M members, N rows, C classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logsumexp

from distillery.ops.log_probs import log_softmax_of
from distillery.ops.metrics import row_blocks, row_correct, row_nll
from distillery.ops.pooling import pooled_blocks


def panel(logits_MNC: np.ndarray, labels_N: np.ndarray, weights_M: np.ndarray, pool: str) -> dict[str, Any]:
    """All figures of this file on the given rows, as plain values for JSON."""
    correct_MN = np.stack([row_correct(z, labels_N) for z in logits_MNC])
    disagreement_MM = disagreement(logits_MNC)
    return {
        "rows": len(labels_N),
        "disagreement": disagreement_MM.tolist(),
        "mean_disagreement": mean_of_pairs(disagreement_MM),
        "q_statistic": mean_of_pairs(q_statistic(correct_MN)),
        "error_correlation": mean_of_pairs(error_correlation(correct_MN)),
        "double_fault": mean_of_pairs(double_fault(correct_MN)),
        **ambiguity(logits_MNC, labels_N, weights_M, pool),
        "without": leave_one_out(logits_MNC, labels_N, weights_M, pool),
    }


def disagreement(logits_MNC: np.ndarray) -> np.ndarray:
    """Share of rows on which two members have different top classes [M, M]."""
    top_MN = logits_MNC.argmax(-1)
    return np.array([(top_MN != top_N).mean(1) for top_N in top_MN])


def q_statistic(correct_MN: np.ndarray) -> np.ndarray:
    """Yule's Q [M, M] of being right: 1 for members right on the same rows, 0 for independent ones.

    ``(ad - bc) / (ad + bc)`` of the counts both right (a), one (b, c), none (d); NaN where that is 0 / 0.
    """
    right, wrong = correct_MN, 1 - correct_MN
    same, other = (right @ right.T) * (wrong @ wrong.T), (right @ wrong.T) * (wrong @ right.T)
    return _ratio(same - other, same + other)


def error_correlation(correct_MN: np.ndarray) -> np.ndarray:
    """Pearson correlation [M, M] of two members' errors; NaN beside a member that is always right or always wrong."""
    deviation_MN = correct_MN - correct_MN.mean(1, keepdims=True)
    covariance = deviation_MN @ deviation_MN.T
    size = np.sqrt(np.diag(covariance))
    return _ratio(covariance, np.outer(size, size))


def double_fault(correct_MN: np.ndarray) -> np.ndarray:
    """Share of rows on which both members are wrong [M, M]."""
    wrong_MN = 1 - correct_MN
    return wrong_MN @ wrong_MN.T / wrong_MN.shape[1]


def mean_of_pairs(figures_MM: np.ndarray) -> float | None:
    """The mean over pairs of different members for which the figure is defined; None without such a pair."""
    pairs = figures_MM[np.triu_indices(len(figures_MM), 1)]
    defined = pairs[np.isfinite(pairs)]
    return float(defined.mean()) if len(defined) else None


def ambiguity(logits_MNC: np.ndarray, labels_N: np.ndarray, weights_M: np.ndarray, pool: str) -> dict[str, Any]:
    """The members' NLL [M] and its weighted mean, the ensemble's NLL, and the difference of the two, the ambiguity.

    By Jensen's (linear pool) and Hölder's (log pool) inequality it is never below zero. It is the only figure of
    diversity that is itself a gain: the other ones merely go with it (Wood et al. 2023, arXiv 2301.03962).
    """
    member_nll = np.array([row_nll(z, labels_N).mean() for z in logits_MNC])
    pooled = pooled_blocks(logits_MNC, weights_M, pool)
    ensemble = np.concatenate([row_nll(pooled_BC, labels_N[part]) for part, pooled_BC in pooled]).mean()
    mean = member_nll[weights_M > 0] @ weights_M[weights_M > 0]
    return {
        "member_nll": member_nll.tolist(),
        "mean_member_nll": float(mean),
        "ensemble_nll": float(ensemble),
        "ambiguity": float(mean - ensemble),
    }


def leave_one_out(
    logits_MNC: np.ndarray, labels_N: np.ndarray, weights_M: np.ndarray, pool: str
) -> list[dict[str, float] | None]:
    """For each member [M], how NLL and accuracy change when it is left out and the other weights are scaled up.

    None for a member that has all the weight.
    """
    changes: list[dict[str, float] | None] = [{"nll": 0.0, "accuracy": 0.0} for _ in weights_M]
    active = np.flatnonzero(weights_M > 0)
    if len(active) == 1:
        changes[active[0]] = None
        return changes
    pools = [weights_M[active]]
    for place in range(len(active)):
        rest = weights_M[active].copy()
        rest[place] = 0
        pools.append(rest / rest.sum())
    figures_W2 = _figures(logits_MNC, labels_N, active, np.stack(pools), pool)
    for member, (nll, accuracy) in zip(active, figures_W2[1:] - figures_W2[0], strict=True):
        changes[member] = {"nll": float(nll), "accuracy": float(accuracy)}
    return changes


def _figures(
    logits_MNC: np.ndarray, labels_N: np.ndarray, active: np.ndarray, pools_WM: np.ndarray, pool: str
) -> np.ndarray:
    """NLL and accuracy [W, 2] of several pools of the same members, given by their weights [W, members]."""
    _, rows, classes = logits_MNC.shape
    nll_WN, correct_WN = np.empty((2, len(pools_WM), rows))
    for part in row_blocks(rows, (len(active) + len(pools_WM)) * classes):
        logs_MBC = log_softmax_of(logits_MNC[active, part])
        each, labels_B = np.arange(logs_MBC.shape[1]), labels_N[part]
        at_label_MB = logs_MBC[:, each, labels_B]
        values = np.exp(logs_MBC, out=logs_MBC) if pool == "probs" else logs_MBC
        pooled_WBC = (pools_WM @ values.reshape(len(active), -1)).reshape(-1, len(each), classes)
        correct_WN[:, part] = pooled_WBC.argmax(-1) == labels_B
        if pool == "probs":  # in logarithms, in which no label's probability is zero
            nll_WN[:, part] = -logsumexp(at_label_MB, b=pools_WM[:, :, None], axis=1)
        else:
            nll_WN[:, part] = logsumexp(pooled_WBC, axis=-1) - pooled_WBC[:, each, labels_B]
    return np.stack([nll_WN.mean(1), correct_WN.mean(1)], axis=1)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
