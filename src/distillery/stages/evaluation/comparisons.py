"""What a student gains over others on the same rows, and how sure that is. N rows, C classes."""

from __future__ import annotations

from collections.abc import Mapping

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
from distillery.stages.evaluation.record import ClassRow, Gain, GroupRow, Reliability
from distillery.stages.roles import Role

BLOCK_ROWS = 4096  # of which probabilities are compared at once


def gains(
    student_NC: np.ndarray, other_NC: np.ndarray, labels_N: np.ndarray, *, resamples: int, confidence: float
) -> Gain:
    """Accuracy and NLL that the student is better by; positive is better for both.

    The interval of accuracy is the score interval of paired shares, that of NLL a bootstrap over rows.
    """
    accuracy = paired_share_difference(
        row_correct(student_NC, labels_N), row_correct(other_NC, labels_N), confidence=confidence
    )
    nll = paired_difference(
        row_nll(other_NC, labels_N), row_nll(student_NC, labels_N), resamples=resamples, confidence=confidence
    )
    return Gain(accuracy=accuracy, nll=nll)


def recoveries(
    student_NC: np.ndarray,
    baseline_NC: np.ndarray,
    ensemble_NC: np.ndarray,
    labels_N: np.ndarray,
    *,
    resamples: int,
    confidence: float,
) -> Gain:
    """Gap recovery in accuracy and in NLL."""
    models = (student_NC, baseline_NC, ensemble_NC)
    correct = [row_correct(logits, labels_N) for logits in models]
    negative_nll = [-row_nll(logits, labels_N) for logits in models]
    return Gain(
        accuracy=gap_recovery(*correct, resamples=resamples, confidence=confidence),
        nll=gap_recovery(*negative_nll, resamples=resamples, confidence=confidence),
    )


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
    candidate: Role,
    candidate_NC: np.ndarray,
    others: Mapping[Role, np.ndarray],
    labels_N: np.ndarray,
    classes: list[str],
    confidence: float,
) -> list[ClassRow]:
    """For each class its rows, every model's recall, and the change from each other model to the candidate.

    The ends of a change are those of the score interval of paired shares, of this class alone. They are not corrected
    for multiple comparisons: among many classes some intervals exclude 0 by chance.
    """
    correct = {candidate: row_correct(candidate_NC, labels_N)}
    for role, logits_NC in others.items():
        correct[role] = row_correct(logits_NC, labels_N)
    parts = [np.flatnonzero(labels_N == number) for number in range(len(classes))]
    changes = {role: _changes(correct[candidate] - correct[role], parts, confidence) for role in others}

    table = []
    for number, name in enumerate(classes):
        rows = parts[number]
        recall: dict[Role, float | None] = {}
        for role, right in correct.items():
            recall[role] = float(right[rows].mean()) if len(rows) else None
        change = {role: intervals[number] for role, intervals in changes.items()} if len(rows) else {}
        table.append(ClassRow(name=name, rows=len(rows), recall=recall, change=change))
    return table


def _changes(difference_N: np.ndarray, parts: list[np.ndarray], confidence: float) -> dict[int, Interval]:
    """The mean difference of each part that has rows, by the part's number."""
    filled = [number for number, rows in enumerate(parts) if len(rows)]
    differences = [difference_N[parts[number]] for number in filled]
    low, high = _ends(differences, float(stats.norm.ppf((1 + confidence) / 2)))
    changes = {}
    for index, number in enumerate(filled):
        changes[number] = Interval(float(differences[index].mean()), float(low[index]), float(high[index]))
    return changes


def reliabilities(models: Mapping[Role, np.ndarray], labels_N: np.ndarray) -> dict[Role, Reliability]:
    """Calibration of the logits [N, C] of each model, in bins of equal mass."""
    curves = {}
    for role, logits_NC in models.items():
        confidence, accuracy, share = reliability(logits_NC, labels_N)
        curves[role] = Reliability(confidence=confidence.tolist(), accuracy=accuracy.tolist(), share=share.tolist())
    return curves


def accuracy_by_group(
    frame: pd.DataFrame, correct: Mapping[Role, np.ndarray]
) -> tuple[list[GroupRow], dict[str, np.ndarray]]:
    """A row per value of each column, and the rows that have it by ``column = value``.

    Args:
        frame: Columns [N, ...] whose values make groups.
        correct: Whether a model is right on each row [N].
    """
    table: list[GroupRow] = []
    parts: dict[str, np.ndarray] = {}
    for column in frame.columns:
        for value, rows in by_group(frame[column].to_numpy()).items():
            parts[f"{column} = {value}"] = rows
            accuracy = {role: float(right[rows].mean()) for role, right in correct.items()}
            table.append(GroupRow(column=str(column), value=value, rows=len(rows), accuracy=accuracy))
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
