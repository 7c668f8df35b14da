"""Judges a candidate on its test rows: by the gates of the config, and against the present champion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from distillery.config.data import Data
from distillery.config.experiment import Experiment
from distillery.ops.log_probs import FLOOR
from distillery.ops.metrics import row_correct, row_nll
from distillery.serving.answers import classes_of, reading_of
from distillery.serving.cells import Column
from distillery.serving.reading import Reading
from distillery.sources import Rows
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.split_identity import split_digest
from distillery.stages.evaluation.evaluation import logits_on_test
from distillery.stages.evaluation.record import EvaluationResult
from distillery.stages.export.onnx_model import predict_rows
from distillery.stages.export.record import ExportFigures
from distillery.stages.promotion.decision import Decision, Outcome, decide
from distillery.stages.promotion.gate_figures import gate_figures
from distillery.store import Handle


@dataclass(frozen=True)
class Champion:
    """The model that a candidate has to beat.

    Attributes:
        version: Its number in the model registry.
        session: The model.
        tags: What was noted about it when it was registered.
    """

    version: int
    session: ort.InferenceSession
    tags: dict[str, str]


def judge_candidate(
    config: Experiment,
    exported: Handle,
    evaluation: Handle,
    data: Handle,
    rows: Rows,
    champion: Champion | None,
) -> Decision:
    """Decides whether the candidate of a run becomes the champion.

    Args:
        config: The experiment.
        exported: Stage `export`.
        evaluation: Stage `evaluation`.
        data: Stage `data`.
        rows: The source, whose raw test rows the champion is asked about.
        champion: The present champion, if there is one.
    """
    dataset = Dataset(data)
    labels = dataset.labels("test")
    result = EvaluationResult.read(evaluation)
    row = result.candidate
    candidate = _outcome(row.title, logits_on_test(evaluation)[row.role], labels, row.params)

    rival = None
    if champion is not None:
        name = f"champion version {champion.version}"
        problem = refuses(champion.session, rows, dataset.classes)
        if problem:
            return Decision(False, [f"cannot be compared with {name}: {problem}"])
        probs = predict_rows(champion.session, rows, dataset.splits["test"])
        params = champion.tags.get("params")
        log_probs = np.log(np.maximum(probs, FLOOR))  # some may be rounded to 0
        rival = _outcome(name, log_probs, labels, None if params is None else round(float(params)))

    figures = gate_figures(result, ExportFigures.model_validate(exported.metrics))
    settings = config.evaluation
    decision = decide(
        config.gates, figures, candidate, rival, resamples=settings.resamples, confidence=settings.confidence
    )
    if champion is not None:
        decision.reasons.extend(doubts(config.data, champion, data, rows))
    return decision


def refuses(running: ort.InferenceSession, rows: Rows, classes: list[str]) -> str:
    """Why an exported model cannot be asked about these rows with these classes; empty if it can."""
    wanted = reading_of(running).columns
    if classes_of(running) != classes:
        return f"its classes are {', '.join(classes_of(running))}"
    if bool(wanted) != (rows.frame is not None):
        return f"it takes {'the rows of a table' if wanted else 'images'}"
    if rows.frame is None:
        return ""
    reading = rows.reading or Reading.of_frame(rows.frame)
    offered = {column.name: column for column in reading.columns}
    lacking = [column.name for column in wanted if column.name not in offered]
    if lacking:
        return f"it needs columns that the data lacks: {', '.join(lacking)}"
    changed = [column.name for column in wanted if not _same_cells(column, offered[column.name])]
    if changed:
        return f"columns hold something else now, or are spelt otherwise: {', '.join(changed)}"
    return ""


def _same_cells(column: Column, other: Column) -> bool:
    """Whether clean cells of one are clean cells of the other."""
    numbers = ("number", "truth")
    if column.kind in numbers and other.kind in numbers:
        return True
    return column.kind == other.kind and column.as_written == other.as_written


def doubts(config: Data, champion: Champion, data: Handle, rows: Rows) -> list[str]:
    """Says why a champion may have learned from some of the test rows; empty where it cannot have."""
    split_stays = config.split.order == "hashed" or rows.given_test is not None
    if champion.tags.get("data") == data.fingerprint:
        return []
    if split_stays and champion.tags.get("dealing") == split_digest(config, rows):
        return []

    remedy = ""
    if not split_stays:
        why = "it is of other data"
        remedy = "; data.split.order 'hashed' keeps rows where they were"
    elif "dealing" not in champion.tags:
        why = "it does not say how its rows were split"
    else:
        why = "its rows were split otherwise, by other columns, kinds of columns, options of the data, shares or seed"
    return [
        f"champion version {champion.version} is in doubt: {why}, so it may have learned from some of these test "
        f"rows, which favours it{remedy}"
    ]


def _outcome(name: str, logits: np.ndarray, labels: np.ndarray, params: int | None) -> Outcome:
    return Outcome(name, row_nll(logits, labels), row_correct(logits, labels), params)
