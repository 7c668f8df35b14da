"""Stage `evaluation`: all models on the test split, which no stage before has opened. N rows, C classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from distillery.config.experiment import Evaluation
from distillery.errors import InputError
from distillery.ops import metrics
from distillery.ops.sampling import covering_sample
from distillery.registry import closest
from distillery.sources import Rows
from distillery.stages.evaluation import comparisons
from distillery.stages.evaluation.costs import CostTable, measure_costs
from distillery.stages.evaluation.inputs import Inputs
from distillery.stages.evaluation.measured_models import MeasuredModels
from distillery.stages.evaluation.record import (
    Compression,
    Disturbed,
    EvaluationResult,
    Groups,
    Quality,
    WinnersCurse,
)
from distillery.stages.evaluation.robustness import disturbed_answers, losses
from distillery.stages.roles import Role
from distillery.stages.teachers.members import GivenMember
from distillery.store import Handle, Store

VERSION = 5
LOGITS = "test_logits.npz"


def check_groups(groups: tuple[str, ...], rows: Rows) -> None:
    """Refuses groups that the data do not have.

    Raises:
        InputError: A group is not a column of the table.
    """
    columns = [] if rows.frame is None else [str(c) for c in rows.frame.columns]
    for name in groups:
        if name not in columns:
            raise InputError(f"evaluation.groups: {closest(name, columns)}")


def evaluate(inputs: Inputs, rows: Rows, config: Evaluation, store: Store) -> Handle:
    """``evaluation.json`` and ``test_logits.npz``, the logits [N, C] of the compared models by role.

    Compared are the chosen student, its baselines and the ensemble in use.

    Args:
        inputs: What is judged.
        rows: The raw rows, for disturbances and groups.
        config: The section `evaluation` of a config.
        store: Keeps the result.
    """
    key = [VERSION, config, inputs.key()]

    def build(work: Path) -> dict[str, float]:
        costs = _costs(inputs, config, store)
        models = MeasuredModels(inputs, config, costs)
        result = _Comparison(models, rows, config).result()
        result.write(work)
        logits = {role.value: logits for role, logits in models.logits.items()}
        np.savez(work / LOGITS, **logits)  # type: ignore[arg-type]
        student = result.student
        return {"accuracy": student.accuracy, "nll": student.nll, "brier": student.brier, "ece": student.ece}

    return store.stage("evaluation", "evaluation", key, build)


def logits_on_test(evaluation: Handle) -> dict[Role, np.ndarray]:
    """Logits [N, C] on test of the compared models, by role."""
    with np.load(evaluation.file(LOGITS)) as arrays:
        return {Role(name): arrays[name] for name in arrays.files}


def _costs(inputs: Inputs, config: Evaluation, store: Store) -> CostTable:
    """What every model costs; see `measure_costs`."""
    by_name = {handle.name: handle for handle in inputs.profiles}
    students = [final.students[0] for final in inputs.finals]
    profiles = [by_name[final.capacity] for final in inputs.finals]
    handle = measure_costs(inputs.members, students, profiles, inputs.ensemble, inputs.data, config.latency_runs, store)
    return CostTable.read(handle)


class _Comparison:
    """Compares the student with the ensemble and with its baselines."""

    def __init__(self, models: MeasuredModels, rows: Rows, config: Evaluation) -> None:
        self.models = models
        self.raw = rows
        self.config = config

    def result(self) -> EvaluationResult:
        """All rows and comparisons."""
        labels = self.models.labels
        classes = self.models.dataset.classes
        confidence = self.config.confidence
        settings = {"resamples": self.config.resamples, "confidence": confidence}

        student = self.models.logits[Role.STUDENT]
        ensemble = self.models.logits[Role.ENSEMBLE]
        baselines: dict[Role, np.ndarray] = {}
        for role in (Role.PLAIN, Role.TUNED):
            if role in self.models.logits:
                baselines[role] = self.models.logits[role]
        others: dict[Role, np.ndarray] = {Role.ENSEMBLE: ensemble, **baselines}
        rival = Role.TUNED if Role.TUNED in baselines else Role.PLAIN

        gains = {
            role: comparisons.gains(student, other, labels, **settings)  # type: ignore[arg-type]
            for role, other in others.items()
        }
        recovery = {
            role: comparisons.recoveries(student, other, ensemble, labels, **settings)  # type: ignore[arg-type]
            for role, other in baselines.items()
        }
        parts = {name: np.flatnonzero(labels == number) for number, name in enumerate(classes)}
        return EvaluationResult(
            rows=self.models.rows,
            classes=classes,
            test_rows=len(labels),
            test_rows_digest=self.models.dataset.digest("test"),
            gains=gains,
            gap_recovery=recovery,
            worst_class_drop=comparisons.worst_drop(student, baselines[rival], labels, parts, confidence),
            by_class=comparisons.by_class(student, others, labels, classes, confidence),
            reliability=comparisons.reliabilities({Role.STUDENT: student, **others}, labels),
            winners_curse=self._winners_curse(rival, gains[rival].nll),
            seeds=self._seeds(),
            groups=self._groups(rival),
            robustness=self._robustness(settings),
            compression=self._compression(),
        )

    def _winners_curse(self, rival: Role, on_test: metrics.Interval) -> WinnersCurse:
        on_val = self.models.row(rival).val_search_nll - self.models.row(Role.STUDENT).val_search_nll
        assert on_test.high is not None
        return WinnersCurse(val_search=on_val, test=on_test, shrank=on_val > on_test.high)

    def _seeds(self) -> list[dict[Role, Quality]]:
        seeds = []
        for number in range(len(self.models.finals.students)):
            networks: dict[Role, Quality] = {}
            for role in (Role.STUDENT, Role.PLAIN, Role.TUNED):
                handles = self.models.finals.of(role)
                if number < len(handles):
                    figures = metrics.quality(self.models.answers(handles[number], "test"), self.models.labels)
                    networks[role] = Quality(accuracy=figures["accuracy"], nll=figures["nll"])
            seeds.append(networks)
        return seeds

    def _groups(self, rival: Role) -> Groups | None:
        if not self.config.groups:
            return None
        assert self.raw.frame is not None
        columns = self.raw.frame[list(self.config.groups)].iloc[self.models.dataset.splits["test"]]
        correct: dict[Role, np.ndarray] = {}
        for role in (Role.STUDENT, Role.ENSEMBLE, Role.PLAIN, Role.TUNED):
            if role in self.models.logits:
                correct[role] = metrics.row_correct(self.models.logits[role], self.models.labels)
        table, parts = comparisons.accuracy_by_group(columns, correct)
        worst = comparisons.worst_drop(
            self.models.logits[Role.STUDENT],
            self.models.logits[rival],
            self.models.labels,
            parts,
            self.config.confidence,
        )
        return Groups(table=table, worst=worst)

    def _robustness(self, settings: Mapping[str, float]) -> list[Disturbed]:
        """Student and ensemble on disturbed test rows, drawn at random with every class among them."""
        sample = covering_sample(self.models.labels, self.config.robustness_rows)
        if not len(sample) or any(isinstance(self.models.members[i], GivenMember) for i in self.models.pooling.active):
            return []
        models = self.models.runnable()
        before = {role: self.models.logits[role][sample] for role in models}
        ids = self.models.dataset.splits["test"][sample]
        after = disturbed_answers(self.models.dataset, self.raw, ids, models)
        return losses(before, after, self.models.labels[sample], **settings)  # type: ignore[arg-type]

    def _compression(self) -> Compression:
        whole = self.models.row(Role.ENSEMBLE)
        small = self.models.row(Role.STUDENT)
        return Compression(
            params=_ratio(whole.params, small.params),
            size=_ratio(whole.size_mb, small.size_mb),
            macs=_ratio(whole.macs, small.macs),
            latency=_ratio(whole.latency_ms_p50, small.latency_ms_p50),
        )


def _ratio(whole: float | None, part: float | None) -> float | None:
    return whole / part if whole and part else None
