"""How good probabilities are, and how sure we may be of it. N rows, C classes, B bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import log_softmax


def row_nll(logits_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each row [N], in nats."""
    return -log_softmax(np.asarray(logits_NC, np.float64), axis=-1)[np.arange(len(labels_N)), labels_N]


def row_correct(logits_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """1.0 where the top class is the label, else 0.0 [N]."""
    return (logits_NC.argmax(-1) == labels_N).astype(np.float64)


def brier(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Mean squared distance between probabilities and one-hot labels, summed over classes (Brier 1950): 0 to 2."""
    probs = np.exp(log_softmax(np.asarray(logits_NC, np.float64), axis=-1))
    probs[np.arange(len(labels_N)), labels_N] -= 1
    return float((probs**2).sum(-1).mean())


def ece(logits_NC: np.ndarray, labels_N: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of the top class, over bins of equal mass (Nguyen and O'Connor 2015): 0 to 1."""
    confidence_B, correct_B, share_B = reliability(logits_NC, labels_N, bins)
    return float((share_B * np.abs(confidence_B - correct_B)).sum())


def reliability(
    logits_NC: np.ndarray, labels_N: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence [B], accuracy [B] and share of rows [B] of bins of equal mass, by rising confidence."""
    confidence = np.exp(log_softmax(np.asarray(logits_NC, np.float64), axis=-1)).max(-1)
    correct = row_correct(logits_NC, labels_N)
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(confidence)))
    means = [(confidence[p].mean(), correct[p].mean(), len(p) / len(confidence)) for p in parts]
    return tuple(np.array(column) for column in zip(*means, strict=True))  # type: ignore[return-value]


def quality(logits_NC: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """accuracy, nll, brier and ece of one model."""
    return {
        "accuracy": float(row_correct(logits_NC, labels_N).mean()),
        "nll": float(row_nll(logits_NC, labels_N).mean()),
        "brier": brier(logits_NC, labels_N),
        "ece": ece(logits_NC, labels_N),
    }


def agreement(logits_NC: np.ndarray, reference_NC: np.ndarray) -> float:
    """Share of rows on which both have the same top class."""
    return float((logits_NC.argmax(-1) == reference_NC.argmax(-1)).mean())


def recall_by_class(logits_NC: np.ndarray, labels_N: np.ndarray) -> list[float | None]:
    """Share of each class's rows that are recognised; None for a class without rows."""
    top = logits_NC.argmax(-1)
    classes = range(logits_NC.shape[1])
    return [float((top[labels_N == c] == c).mean()) if (labels_N == c).any() else None for c in classes]


def confusion(logits_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Counts [C, C]: true class by predicted class."""
    counts = np.zeros((logits_NC.shape[1],) * 2, np.int64)
    np.add.at(counts, (labels_N, logits_NC.argmax(-1)), 1)
    return counts


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval; all None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    note: str = ""


def paired_difference(
    a_N: np.ndarray, b_N: np.ndarray, *, resamples: int, confidence: float, seed: int = 0
) -> Interval:
    """Mean of a - b with a percentile interval from a bootstrap over rows (Efron 1979)."""
    difference = a_N - b_N
    if np.all(difference == difference[0]):
        return Interval(*(float(difference[0]),) * 3)
    found = stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        batch=_batch(len(difference)),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(difference.mean()), float(found.low), float(found.high))


def gap_recovery(
    student_N: np.ndarray,
    baseline_N: np.ndarray,
    ensemble_N: np.ndarray,
    *,
    resamples: int,
    confidence: float,
    seed: int = 0,
) -> Interval:
    """(student - baseline) / (ensemble - baseline) of per-row figures, with a paired bootstrap interval over rows.

    Where the interval of the gap itself contains zero, the ratio means nothing: value None, note "gap not significant".
    """
    gap = paired_difference(ensemble_N, baseline_N, resamples=resamples, confidence=confidence, seed=seed)
    assert gap.value is not None and gap.low is not None and gap.high is not None
    sliver = np.copysign(1e-12, gap.value)
    if gap.low <= 0 <= gap.high:
        return Interval(None, None, None, f"gap not significant: [{gap.low:.4g}, {gap.high:.4g}]")

    def ratio(student: np.ndarray, baseline: np.ndarray, ensemble: np.ndarray, axis: int = -1) -> np.ndarray:
        low = baseline.mean(axis)
        apart = ensemble.mean(axis) - low
        # A resample may hold no gap at all; without a number there, the whole interval would be none.
        return (student.mean(axis) - low) / np.where(apart == 0, sliver, apart)

    found = stats.bootstrap(
        (student_N, baseline_N, ensemble_N),
        ratio,
        n_resamples=resamples,
        confidence_level=confidence,
        paired=True,
        vectorized=True,
        method="percentile",
        batch=_batch(len(student_N)),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(ratio(student_N, baseline_N, ensemble_N)), float(found.low), float(found.high))


def _batch(rows: int) -> int:
    return max(1, 4_000_000 // rows)  # resamples held in memory at once
