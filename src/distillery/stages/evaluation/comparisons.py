"""What a student gains over others on the same rows, and how sure that is. N rows, C classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import log_softmax

from distillery.ops.metrics import (
    Interval,
    gap_recovery,
    paired_difference,
    paired_share_difference,
    reliability,
    row_correct,
    row_nll,
    share_difference_ends,
)

BLOCK_ROWS = 4096  # of which probabilities are compared at once


def gains(
    student_NC: np.ndarray, other_NC: np.ndarray, labels_N: np.ndarray, *, resamples: int, confidence: float
) -> dict[str, Interval]:
    """`accuracy` and `nll` that the student is better by; positive is better for both.

    The interval of accuracy is the score interval of paired shares, that of NLL a bootstrap over rows.
    """
    correct = [row_correct(z, labels_N) for z in (student_NC, other_NC)]
    nll = [row_nll(z, labels_N) for z in (other_NC, student_NC)]
    return {
        "accuracy": paired_share_difference(*correct, confidence=confidence),
        "nll": paired_difference(*nll, resamples=resamples, confidence=confidence),
    }


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

    The ends are those of the score interval of paired shares, each at a level of ``(1 - confidence) / parts``
    (Bonferroni, which for the largest one is Holm's first step): the lower end is above a limit only if some part
    falls by more than that beyond chance. The interval of a part of few rows is wide, so every part is judged. The
    note names the part.

    Args:
        student_NC: Logits of the student.
        other_NC: Logits of whatever the student is compared with.
        labels_N: Classes.
        members: Name of each part and its rows; parts without rows are left out.
        confidence: Of the ends together.
    """
    fall = row_correct(other_NC, labels_N) - row_correct(student_NC, labels_N)
    parts = {name: fall[rows] for name, rows in members.items() if len(rows)}
    if not parts:
        return Interval(None, None, None, "no part has any rows")
    z = float(stats.norm.ppf(1 - (1 - confidence) / len(parts)))
    low, high = _ends(list(parts.values()), z)
    means = [float(values.mean()) for values in parts.values()]
    worst = max(range(len(parts)), key=lambda place: (low[place], means[place]))
    return Interval(means[worst], float(low[worst]), float(high[worst]), list(parts)[worst])


def _ends(differences: list[np.ndarray], z: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends [parts] of the score intervals of mean differences of right answers, each of a part's rows."""
    won = np.array([(values > 0).sum() for values in differences])
    lost = np.array([(values < 0).sum() for values in differences])
    rows = np.array([len(values) for values in differences])
    return share_difference_ends(won, lost, rows, z)


def by_class(
    student_NC: np.ndarray, others: dict[str, np.ndarray], labels_N: np.ndarray, classes: list[str], confidence: float
) -> list[dict[str, Any]]:
    """For each class its `rows`, every model's `recall` by name, and the `change` from each other model to the student.

    The ends of a change are those of the score interval of paired shares, of this class alone: among many classes
    some are beyond chance by chance. A class without rows has no recall and no change.
    """
    correct = {"student": row_correct(student_NC, labels_N)}
    correct |= {name: row_correct(logits_NC, labels_N) for name, logits_NC in others.items()}
    places = [np.flatnonzero(labels_N == number) for number in range(len(classes))]
    changes = {name: _changes(correct["student"] - correct[name], places, confidence) for name in others}
    table = []
    for number, name in enumerate(classes):
        rows = places[number]
        recall = {k: float(v[rows].mean()) if len(rows) else None for k, v in correct.items()}
        change = {k: found[number] for k, found in changes.items()} if len(rows) else {}
        table.append({"class": name, "rows": len(rows), "recall": recall, "change": change})
    return table


def _changes(difference_N: np.ndarray, places: list[np.ndarray], confidence: float) -> dict[int, dict[str, float]]:
    """Value and ends of the mean difference of each part that has rows, by the part's number."""
    filled = [number for number, rows in enumerate(places) if len(rows)]
    parts = [difference_N[places[number]] for number in filled]
    low, high = _ends(parts, float(stats.norm.ppf((1 + confidence) / 2)))
    return {
        number: {"value": float(values.mean()), "low": float(low[place]), "high": float(high[place])}
        for place, (number, values) in enumerate(zip(filled, parts, strict=True))
    }


def reliabilities(models: dict[str, np.ndarray], labels_N: np.ndarray) -> dict[str, dict[str, list[float]]]:
    """Mean `confidence`, `accuracy` and `share` of rows of bins of equal mass, for the logits [N, C] of each model."""
    names = ("confidence", "accuracy", "share")
    return {
        model: {k: v.tolist() for k, v in zip(names, reliability(logits_NC, labels_N), strict=True)}
        for model, logits_NC in models.items()
    }


def accuracy_by_group(
    frame: pd.DataFrame, correct: dict[str, np.ndarray]
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """A record per value of each column, and the rows that have it by ``column = value``.

    Args:
        frame: Columns [N, ...] whose values make groups.
        correct: Whether a model is right on each row [N], by its name.
    """
    table: list[dict[str, Any]] = []
    parts: dict[str, np.ndarray] = {}
    for column in frame.columns:
        for value, places in by_group(frame[column].to_numpy()).items():
            parts[f"{column} = {value}"] = places
            shares = {name: float(right[places].mean()) for name, right in correct.items()}
            table.append({"column": column, "value": value, "rows": len(places), **shares})
    return table, parts


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
        here = np.flatnonzero(~missing)
        names = pd.Series([str(v) for v in values[here]], dtype=object)
        found = names.groupby(names).indices
        groups = {name: here[found[name]] for name in sorted(found)}
    if missing.any():
        groups["missing" if "missing" not in groups else "missing cells"] = np.flatnonzero(missing)
    return groups


def fidelity(student_NC: np.ndarray, ensemble_NC: np.ndarray, labels_N: np.ndarray) -> dict[str, float | None]:
    """How near the student is to the ensemble.

    `agreement` on the top class, also among the rows where the ensemble is wrong, and `kl`, the mean of
    KL(ensemble ‖ student) in nats.
    """
    same = ensemble_NC.argmax(-1) == student_NC.argmax(-1)
    wrong = ensemble_NC.argmax(-1) != labels_N
    blocks = (slice(start, start + BLOCK_ROWS) for start in range(0, len(labels_N), BLOCK_ROWS))
    divergence = sum(_divergence(ensemble_NC[block], student_NC[block]) for block in blocks)
    return {
        "agreement": float(same.mean()),
        "agreement_where_ensemble_errs": float(same[wrong].mean()) if wrong.any() else None,
        "kl": float(divergence / len(labels_N)),
    }


def _divergence(ensemble_BC: np.ndarray, student_BC: np.ndarray) -> float:
    """Sum over rows of KL(ensemble ‖ student), in nats."""
    ensemble_BC, student_BC = (log_softmax(z.astype(np.float64), axis=-1) for z in (ensemble_BC, student_BC))
    return float((np.exp(ensemble_BC) * (ensemble_BC - student_BC)).sum())
