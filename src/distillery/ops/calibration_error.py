"""The difference of two models' calibration errors, and how sure it is. N rows, C classes, B bins."""

from __future__ import annotations

import numpy as np

from distillery.ops.metrics import Interval, resampled_means, row_scores

BINS = 15


def ece_difference(
    a_NC: np.ndarray, b_NC: np.ndarray, labels_N: np.ndarray, *, resamples: int, confidence: float, seed: int = 0
) -> Interval:
    """ECE of the logits a minus that of b, with a percentile interval from a bootstrap over rows.

    The bins of equal mass are those of all rows in every resample.

    Args:
        a_NC: Logits of a model.
        b_NC: Logits of another model.
        labels_N: Classes.
        resamples: Of the bootstrap.
        confidence: Of the interval.
        seed: Of the bootstrap.
    """
    gaps_a_NB = _gaps(a_NC, labels_N)
    gaps_b_NB = _gaps(b_NC, labels_N)
    bins = gaps_a_NB.shape[1]
    gaps = np.hstack([gaps_a_NB, gaps_b_NB])
    means = np.abs(np.vstack([gaps.mean(0), resampled_means(gaps, resamples, seed)]))
    differences = means[:, :bins].sum(1) - means[:, bins:].sum(1)
    low, high = np.quantile(differences[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(differences[0]), float(low), float(high))


def _gaps(logits_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Confidence minus correctness of each row in the column of its bin, else 0 [N, B].

    The ECE is the sum over bins of the size of the mean over rows.
    """
    scores = row_scores(logits_NC, labels_N)
    order = np.argsort(scores.confidence, kind="stable")
    parts = np.array_split(order, min(BINS, len(order)))
    gaps_NB = np.zeros((len(order), len(parts)))
    for number, rows in enumerate(parts):
        gaps_NB[rows, number] = scores.confidence[rows] - scores.correct[rows]
    return gaps_NB
