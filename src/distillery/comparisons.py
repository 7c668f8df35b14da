"""What a student gains over others on the same rows, and how sure that is. N rows, C classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from distillery.metrics import Interval, gap_recovery, paired_difference, reliability, row_correct, row_nll

MIN_ROWS = 50  # a class or group with fewer rows is reported, but not judged


def gains(
    student_NC: np.ndarray, other_NC: np.ndarray, labels_N: np.ndarray, *, resamples: int, confidence: float
) -> dict[str, Interval]:
    """`accuracy` and `nll` that the student is better by; positive is better for both."""
    settings: dict[str, Any] = {"resamples": resamples, "confidence": confidence}
    correct = [row_correct(z, labels_N) for z in (student_NC, other_NC)]
    nll = [row_nll(z, labels_N) for z in (other_NC, student_NC)]
    return {"accuracy": paired_difference(*correct, **settings), "nll": paired_difference(*nll, **settings)}


def recoveries(
    student_NC: np.ndarray,
    baseline_NC: np.ndarray,
    ensemble_NC: np.ndarray,
    labels_N: np.ndarray,
    *,
    resamples: int,
    confidence: float,
) -> dict[str, Interval]:
    """Gap recovery in `accuracy` and in `nll`."""
    found = {}
    for figure, per_row, sign in (("accuracy", row_correct, 1), ("nll", row_nll, -1)):
        values = [sign * per_row(z, labels_N) for z in (student_NC, baseline_NC, ensemble_NC)]
        found[figure] = gap_recovery(*values, resamples=resamples, confidence=confidence)
    return found


def worst_drop(
    student_NC: np.ndarray,
    other_NC: np.ndarray,
    labels_N: np.ndarray,
    members: dict[str, np.ndarray],
    confidence: float,
) -> Interval:
    """The largest fall of accuracy from `other` to the student among parts of the rows.

    The ends are a normal approximation for paired differences, each at a level of ``(1 - confidence) / parts``
    (Bonferroni, which for the largest one is Holm's first step): the lower end is above a limit only if some part
    falls by more than that beyond chance. The note names the part.

    Args:
        student_NC: Logits of the student.
        other_NC: Logits of whatever the student is compared with.
        labels_N: Classes.
        members: Name of each part and its rows; parts with fewer than `MIN_ROWS` rows are left out.
        confidence: Of the ends together.
    """
    drop = row_correct(other_NC, labels_N) - row_correct(student_NC, labels_N)
    parts = {name: drop[rows] for name, rows in members.items() if len(rows) >= MIN_ROWS}
    if not parts:
        return Interval(None, None, None, f"no part has {MIN_ROWS} rows")
    z = float(stats.norm.ppf(1 - (1 - confidence) / len(parts)))
    found = []
    for name, values in parts.items():
        mean, error = float(values.mean()), float(values.std() / np.sqrt(len(values)))
        found.append((mean - z * error, Interval(mean, mean - z * error, mean + z * error, name)))
    return max(found, key=lambda pair: (pair[0], pair[1].value))[1]


def by_class(
    student_NC: np.ndarray, others: dict[str, np.ndarray], labels_N: np.ndarray, classes: list[str], confidence: float
) -> list[dict[str, Any]]:
    """For each class its `rows`, every model's `recall` by name, and the `change` from each other model to the student.

    The ends of a change are a normal approximation for paired differences, of this class alone: among many classes
    some are beyond chance by chance. A class without rows has no recall and no change.
    """
    correct = {"student": row_correct(student_NC, labels_N)}
    correct |= {name: row_correct(logits_NC, labels_N) for name, logits_NC in others.items()}
    z = float(stats.norm.ppf((1 + confidence) / 2))
    table = []
    for number, name in enumerate(classes):
        rows = np.flatnonzero(labels_N == number)
        mine = {k: v[rows] for k, v in correct.items()}
        recall = {k: float(v.mean()) if len(rows) else None for k, v in mine.items()}
        change = {k: _change(mine["student"] - mine[k], z) for k in others} if len(rows) else {}
        table.append({"class": name, "rows": len(rows), "recall": recall, "change": change})
    return table


def _change(difference_N: np.ndarray, z: float) -> dict[str, float]:
    mean, half = float(difference_N.mean()), z * float(difference_N.std() / np.sqrt(len(difference_N)))
    return {"value": mean, "low": mean - half, "high": mean + half}


def reliabilities(models: dict[str, np.ndarray], labels_N: np.ndarray) -> dict[str, dict[str, list[float]]]:
    """Mean `confidence`, `accuracy` and `share` of rows of bins of equal mass, for the logits [N, C] of each model."""
    names = ("confidence", "accuracy", "share")
    return {
        model: {k: v.tolist() for k, v in zip(names, reliability(logits_NC, labels_N), strict=True)}
        for model, logits_NC in models.items()
    }


def by_group(values: np.ndarray, quantiles: int = 4) -> dict[str, np.ndarray]:
    """Places of each value of a column [N]; numbers with many values are cut into parts of equal size."""
    missing = np.array([bool(pd.isna(v)) or v == "" for v in values])
    groups: dict[str, np.ndarray] = {}
    if np.issubdtype(values.dtype, np.number) and len(np.unique(values[~missing])) > 12:
        edges = np.unique(np.quantile(values[~missing].astype(np.float64), np.linspace(0, 1, quantiles + 1)))
        which = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
        written = next(w for d in range(6, 18) if len(set(w := [f"{e:.{d}g}" for e in edges])) == len(edges))
        for part in range(len(edges) - 1):
            groups[f"{written[part]} to {written[part + 1]}"] = np.flatnonzero((which == part) & ~missing)
    else:
        for value in sorted({str(v) for v in values[~missing]}):
            groups[value] = np.flatnonzero(np.array([str(v) == value for v in values]) & ~missing)
    if missing.any():
        groups["missing"] = np.flatnonzero(missing)
    return groups


def fidelity(student_NC: np.ndarray, ensemble_NC: np.ndarray, labels_N: np.ndarray) -> dict[str, float | None]:
    """How near the student is to the ensemble.

    `agreement` on the top class, also among the rows where the ensemble is wrong, and `kl`, the mean of
    KL(ensemble ‖ student) in nats.
    """
    ensemble, student = (z - np.logaddexp.reduce(z, axis=-1, keepdims=True) for z in (ensemble_NC, student_NC))
    same = ensemble_NC.argmax(-1) == student_NC.argmax(-1)
    wrong = ensemble_NC.argmax(-1) != labels_N
    return {
        "agreement": float(same.mean()),
        "agreement_where_ensemble_errs": float(same[wrong].mean()) if wrong.any() else None,
        "kl": float((np.exp(ensemble) * (ensemble - student)).sum(-1).mean()),
    }
