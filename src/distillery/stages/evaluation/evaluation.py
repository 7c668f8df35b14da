"""Stage `evaluation`: all models on the test split, which no stage before has opened. N rows, C classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distillery.config.experiment import Evaluation
from distillery.errors import InputError
from distillery.ops import metrics
from distillery.ops.calibration_error import ece_difference
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
    Gain,
    Groups,
    Quality,
    WinnersCurse,
)
from distillery.stages.evaluation.robustness import disturbed_answers, losses
from distillery.stages.roles import Role
from distillery.stages.teachers.members import GivenMember
from distillery.store import Handle, Store

VERSION = 7
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

    Compared are the student and the baselines of the chosen capacity, and the ensemble in use.

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
        row = result.candidate
        return {"accuracy": row.accuracy, "nll": row.nll, "brier": row.brier, "ece": row.ece}

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


SMALL = (Role.STUDENT, Role.TUNED, Role.PLAIN)
"""Trainings of one small network: the candidate is one of them."""


class _Comparison:
    """Compares the candidate with the ensemble and with the other trainings of its network."""

    def __init__(self, models: MeasuredModels, rows: Rows, config: Evaluation) -> None:
        self.models = models
        self.raw = rows
        self.config = config
        self.settings = {"resamples": config.resamples, "confidence": config.confidence}
        self.candidate = models.finals.candidate
        self.small = [role for role in SMALL if role in models.logits]
        self.rival = self._best_on_val([role for role in self.small if role is not self.candidate])

    def result(self) -> EvaluationResult:
        """All rows and comparisons."""
        models = self.models
        labels = models.labels
        classes = models.dataset.classes
        confidence = self.config.confidence

        candidate = models.logits[self.candidate]
        others: dict[Role, np.ndarray] = {Role.ENSEMBLE: models.logits[Role.ENSEMBLE]}
        for role in (Role.STUDENT, Role.PLAIN, Role.TUNED):
            if role in models.logits and role is not self.candidate:
                others[role] = models.logits[role]

        gains = {role: self._gain(self.candidate, role) for role in others}
        baselines = [role for role in (Role.PLAIN, Role.TUNED) if role in models.logits]
        best_baseline = self._best_on_val([role for role in self.small if role is not Role.STUDENT])
        parts = {name: np.flatnonzero(labels == number) for number, name in enumerate(classes)}
        drop = comparisons.worst_drop(candidate, others[Role.ENSEMBLE], labels, parts, confidence)
        ece = ece_difference(candidate, others[Role.ENSEMBLE], labels, **self.settings)  # type: ignore[arg-type]
        return EvaluationResult(
            rows=models.rows,
            classes=classes,
            test_rows=len(labels),
            test_rows_digest=models.dataset.digest("test"),
            rival=self.rival,
            gains=gains,
            best_baseline=best_baseline,
            distillation=self._gain(Role.STUDENT, best_baseline),
            gap_recovery={role: self._recovery(role) for role in baselines},
            ece_over_ensemble=ece,
            worst_class_drop=drop,
            by_class=comparisons.by_class(self.candidate, candidate, others, labels, classes, confidence),
            reliability=comparisons.reliabilities({self.candidate: candidate, **others}, labels),
            winners_curse=self._winners_curse(gains[self.rival].nll),
            seeds=self._seeds(),
            groups=self._groups(),
            robustness=self._robustness(),
            compression=self._compression(),
        )

    def _best_on_val(self, roles: Sequence[Role]) -> Role:
        """The role whose network has the lowest NLL on val_search."""
        return min(roles, key=lambda role: self.models.row(role).val_search_nll)

    def _gain(self, role: Role, other: Role) -> Gain:
        logits = self.models.logits
        return comparisons.gains(logits[role], logits[other], self.models.labels, **self.settings)  # type: ignore[arg-type]

    def _recovery(self, baseline: Role) -> Gain:
        logits = self.models.logits
        return comparisons.recoveries(
            logits[Role.STUDENT],
            logits[baseline],
            logits[Role.ENSEMBLE],
            self.models.labels,
            **self.settings,  # type: ignore[arg-type]
        )

    def _winners_curse(self, on_test: metrics.Interval) -> WinnersCurse:
        on_val = self.models.row(self.rival).val_search_nll - self.models.row(self.candidate).val_search_nll
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

    def _groups(self) -> Groups | None:
        if not self.config.groups:
            return None
        assert self.raw.frame is not None
        labels = self.models.labels
        logits = self.models.logits
        columns = self.raw.frame[list(self.config.groups)].iloc[self.models.dataset.splits["test"]]
        correct: dict[Role, np.ndarray] = {}
        for role in (Role.STUDENT, Role.ENSEMBLE, Role.PLAIN, Role.TUNED):
            if role in logits:
                correct[role] = metrics.row_correct(logits[role], labels)
        table, parts = comparisons.accuracy_by_group(columns, correct)
        worst = comparisons.worst_drop(
            logits[self.candidate], logits[Role.ENSEMBLE], labels, parts, self.config.confidence
        )
        return Groups(table=table, worst=worst)

    def _robustness(self) -> list[Disturbed]:
        """Candidate and ensemble on disturbed test rows, drawn at random with every class among them."""
        models = self.models
        sample = covering_sample(models.labels, self.config.robustness_rows)
        if not len(sample) or any(isinstance(models.members[i], GivenMember) for i in models.pooling.active):
            return []
        runnable = models.runnable()
        before = {role: models.logits[role][sample] for role in runnable}
        ids = models.dataset.splits["test"][sample]
        after = disturbed_answers(models.dataset, self.raw, ids, runnable)
        return losses(self.candidate, before, after, models.labels[sample], **self.settings)  # type: ignore[arg-type]

    def _compression(self) -> Compression:
        whole = self.models.row(Role.ENSEMBLE)
        small = self.models.row(self.candidate)
        return Compression(
            params=_ratio(whole.params, small.params),
            size=_ratio(whole.size_mb, small.size_mb),
            macs=_ratio(whole.macs, small.macs),
            latency=_ratio(whole.latency_ms_p50, small.latency_ms_p50),
        )


def _ratio(whole: float | None, part: float | None) -> float | None:
    return whole / part if whole and part else None
