"""START HERE: the whole chain, top to bottom.

data -> teachers -> logits -> ensemble weights -> search (T, alpha, capacity) -> students
     -> evaluation -> export -> promotion

`run_chain` is the chain. `flow.py` runs it with Prefect and MLflow; benchmarks and tests run it without.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distillery.config.experiment import Experiment
from distillery.flows.tasks import networks, release, stages, studies
from distillery.flows.tasks.context import Context, Pending
from distillery.flows.tasks.external_members import resolve_external_teachers
from distillery.sources import Rows
from distillery.stages.data.dataset import Dataset
from distillery.stages.ensemble.weight_selection import active
from distillery.stages.evaluation.inputs import Inputs
from distillery.stages.evaluation.record import EvaluationResult
from distillery.stages.report.record import Report
from distillery.stages.roles import Role
from distillery.stages.students.final_models import FinalModels, TrainingGroup, plan_final_models
from distillery.stages.teachers.groups import in_one_go
from distillery.store import Handle

Part = Literal["all", "search", "release"]


@dataclass(frozen=True)
class EnsembleResults:
    """What a student is distilled from.

    Attributes:
        config: The experiment, with given logits in the place of teachers from elsewhere.
        data: Stage `data`.
        profiles: What each student capacity costs.
        members: The trained teachers.
        ensemble: The ensemble's weights.
        transfer_logits: Of the members that count, on the rows that students learn from; where students are judged by
            folds, also without each fold.
    """

    config: Experiment
    data: Handle
    profiles: list[Handle]
    members: list[Handle]
    ensemble: Handle
    transfer_logits: list[Handle]


@dataclass(frozen=True)
class StudentResults:
    """The searches and the networks that were trained at full length."""

    search: Handle
    baseline_search: Handle
    chosen: str
    finals: list[FinalModels]

    @property
    def candidate(self) -> Handle:
        """The network that is to be shipped."""
        final = next(final for final in self.finals if final.capacity == self.chosen)
        return final.of(final.candidate)[0]


def run_chain(ctx: Context, rows: Rows, part: Part = "all") -> Report | EvaluationResult:
    """Distils the ensemble that the config describes and returns the report.

    The part `search` ends with the evaluation, and returns that. The part `release` begins there: it computes nothing
    that comes before, and fails if something of it is not finished.
    """
    began = time.perf_counter()

    # data -> teachers -> logits -> ensemble weights
    teachers = build_ensemble(ctx, rows)
    ctx = ctx.with_config(teachers.config)

    # -> search -> students -> evaluation
    students = distil_students(ctx, teachers)
    evaluation = stages.evaluate_models(ctx, evaluation_inputs(ctx, teachers, students), rows)
    if part == "search":
        return EvaluationResult.read(evaluation)

    # -> export -> promotion -> report
    ctx = ctx.writing()
    data = teachers.data
    exported = release.export_student(ctx, students.candidate, data, rows)
    release.measure_served(ctx, exported, data, rows)
    promotion = release.release(ctx, exported, evaluation, data, rows)
    return release.write_report(
        ctx,
        data,
        teachers.ensemble,
        students.search,
        students.baseline_search,
        evaluation,
        exported,
        promotion,
        time.perf_counter() - began,
    )


def build_ensemble(ctx: Context, rows: Rows) -> EnsembleResults:
    """Trains the teachers, caches their logits and chooses the ensemble's weights."""
    data = stages.prepare_data(ctx, rows)
    profiles = [stages.profile_capacity(ctx, capacity, data) for capacity in ctx.config.student.capacities]

    config = resolve_external_teachers(ctx, rows, data)
    ctx = ctx.with_config(config)
    groups = in_one_go(config.teachers, data, ctx.places.device)
    members = _results([networks.train_teachers.begin(ctx, names, member, data) for names, member in groups])

    val_logits = cache_logits(ctx, members, "val_ensemble", data)
    ensemble = stages.optimize_weights(ctx, members, val_logits, data)

    names = active(ensemble)
    counting = [member for member in members if member.name in names]
    transfer_logits = cache_transfer_logits(ctx, counting, data)
    return EnsembleResults(config, data, profiles, members, ensemble, transfer_logits)


def distil_students(ctx: Context, teachers: EnsembleResults) -> StudentResults:
    """Searches temperature, alpha and capacity, then trains the best students and their baselines at full length."""
    data = teachers.data
    ensemble = teachers.ensemble
    transfer_logits = teachers.transfer_logits
    search = studies.run_search(ctx, data, ensemble, transfer_logits, teachers.profiles)
    baseline_search = studies.run_baseline_search(ctx, data, search, teachers.profiles)

    def begin(groups: Sequence[TrainingGroup]) -> list[Pending[list[Handle]]]:
        begun = []
        for group in groups:
            if group.role is Role.STUDENT:
                begun.append(networks.train_students.begin(ctx, group, data, ensemble, transfer_logits))
            else:
                begun.append(networks.train_baselines.begin(ctx, group, data))
        return begun

    # All that is known now begins; the plain baseline waits for the setting of the best student.
    plan = plan_final_models(ctx.config, data, search, baseline_search)
    students = begin(plan.students)
    tuned = begin(plan.tuned)
    others = begin(plan.others)
    plain = begin(plan.plain(_results(students)))
    finals = plan.pick(_results(students), _results(tuned), _results(plain), _results(others))
    return StudentResults(search, baseline_search, plan.chosen.name, finals)


def evaluation_inputs(ctx: Context, teachers: EnsembleResults, students: StudentResults) -> Inputs:
    """Every model that is measured on the test rows, with the logits that the members give there."""
    on_val_search = cache_logits(ctx, teachers.members, "val_search", teachers.data)
    on_test = cache_logits(ctx, teachers.members, "test", teachers.data)
    return Inputs(
        teachers.members,
        on_val_search,
        on_test,
        teachers.ensemble,
        students.finals,
        students.chosen,
        teachers.data,
        teachers.profiles,
    )


def cache_logits(ctx: Context, members: Sequence[Handle], split: str, data: Handle) -> list[Handle]:
    """The raw logits of each member on a split."""
    begun = [stages.cache_logits.begin(ctx, member, split, data) for member in members]
    return [pending.result() for pending in begun]


def cache_transfer_logits(ctx: Context, members: Sequence[Handle], data: Handle) -> list[Handle]:
    """The raw logits of each member on the transfer set: as they are, then by models that have not seen each fold."""
    dataset = Dataset(data)
    folds = range(dataset.fold_count) if dataset.search_by_folds else ()
    begun = []
    for without in (None, *folds):
        begun += [stages.cache_logits.begin(ctx, member, "transfer", data, without) for member in members]
    return [pending.result() for pending in begun]


def _results(begun: Sequence[Pending[list[Handle]]]) -> list[Handle]:
    handles: list[Handle] = []
    for pending in begun:
        handles += pending.result()
    return handles
