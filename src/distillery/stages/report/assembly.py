"""Puts the report of a run together from the results of its stages."""

from __future__ import annotations

from collections.abc import Sequence

from distillery.config.experiment import Experiment
from distillery.config.search_space import Knobs
from distillery.stages.data.dataset import Dataset
from distillery.stages.ensemble.record import EnsembleChoice
from distillery.stages.evaluation.record import EvaluationResult, ModelComparison
from distillery.stages.export.record import ExportFigures, ServedModel, ServedModels
from distillery.stages.promotion.record import Promotion
from distillery.stages.report.advice import advise
from distillery.stages.report.cost_ledger import ledger, passes
from distillery.stages.report.record import (
    DataSummary,
    EnsembleSummary,
    LogitEncoding,
    Report,
    ReportRow,
    Study,
    TeacherSettings,
)
from distillery.stages.search.importances import importances
from distillery.stages.search.record import SearchResult
from distillery.stages.search.student_search import baseline_knobs
from distillery.store import Handle


def assemble(
    config: Experiment,
    data: Handle,
    ensemble: Handle,
    search: Handle,
    baseline_search: Handle,
    evaluation: Handle,
    export: Handle,
    promotion: Promotion,
    handles: list[Handle],
    total_seconds: float,
) -> Report:
    """The report of a run.

    Args:
        config: The experiment.
        data: Stage `data`.
        ensemble: Stage `ensemble`.
        search: Stage `search`.
        baseline_search: The same without a teacher.
        evaluation: Stage `evaluation`.
        export: Stage `export`.
        promotion: The decision.
        handles: Of all stages, for what each cost and which were found finished.
        total_seconds: Wall time of this run.
    """
    judged = EvaluationResult.read(evaluation)
    choice = EnsembleChoice.read(ensemble)
    study = SearchResult.read(search)
    exported = ExportFigures.model_validate(export.metrics)
    dataset = Dataset(data)
    folds = dataset.fold_count if dataset.search_by_folds else 0
    counted = passes(config, data.metrics["rows_train"], study.trials, handles, folds)
    spent = ledger(config, counted, judged.rows, handles)
    seconds = {stage: line.computed + line.found for stage, line in spent.stages.items()}
    computed = {handle.stage for handle in handles if not handle.cached}
    return Report(
        name=config.name,
        rows=_rows(judged, exported),
        **{name: getattr(judged, name) for name in ModelComparison.model_fields if name != "rows"},
        classes=judged.classes,
        teachers=_teachers(config),
        weights=_ensemble(choice),
        search=_study(study, config.search, config),
        baseline_search=_study(SearchResult.read(baseline_search), baseline_knobs(config), config),
        export=exported,
        served=_served(handles),
        promotion=promotion,
        data=_data(data, judged),
        config=config.model_dump(mode="json"),
        store={handle.stage: handle.path for handle in (data, ensemble, search, evaluation, export)},
        encoding=_encoding(handles),
        passes=counted,
        ledger=spent,
        seconds={**seconds, "total": total_seconds},
        cached=sorted({handle.stage for handle in handles} - computed),
        advice=advise(judged, promotion, choice.used.weighting, seconds, config.search.max_latency_ms),
    )


def _rows(judged: EvaluationResult, exported: ExportFigures) -> list[ReportRow]:
    """The models; the candidate with what its exported file has and takes."""
    rows = []
    for row in judged.rows:
        values = dict(row)
        if row is judged.candidate:
            values |= exported.model_dump(exclude={"parity"})
        rows.append(ReportRow(**values))
    return rows


def _teachers(config: Experiment) -> dict[str, TeacherSettings]:
    settings = {}
    for name, member, _ in config.teachers.each():
        recipe = config.teachers.recipe_of(member)
        settings[name] = TeacherSettings(model=member.model_dump(mode="json"), recipe=recipe.model_dump(mode="json"))
    return settings


def _ensemble(choice: EnsembleChoice) -> EnsembleSummary:
    return EnsembleSummary(
        weighting=choice.used.weighting,
        pool=choice.used.pool,
        temperature=choice.used.temperature,
        members=choice.weights,
        reason=choice.reason,
        candidates=choice.table,
        diversity=choice.diversity,
        pruning=choice.pruning,
        left_out=choice.left_out,
        notes=choice.notes,
    )


def _study(result: SearchResult, knobs: Knobs, config: Experiment) -> Study:
    values = {name: getattr(result, name) for name in Study.model_fields if name != "importances"}
    mattered = importances(result.trials, knobs, config.search.objectives[0])
    return Study(**values, importances=mattered)


def _served(handles: Sequence[Handle]) -> list[ServedModel]:
    for handle in handles:
        if handle.stage == "served":
            return ServedModels.read(handle).models
    return []


def _data(data: Handle, judged: EvaluationResult) -> DataSummary:
    dataset = Dataset(data)
    return DataSummary(
        rows=dataset.rows,
        folds=dataset.fold_count,
        search_by_folds=dataset.search_by_folds,
        classes=data.metrics["classes"],
        skipped=data.metrics["skipped"],
        skipped_rows=dataset.skipped,
        notes=dataset.notes,
        test_rows_digest=judged.test_rows_digest,
    )


def _encoding(handles: Sequence[Handle]) -> LogitEncoding | None:
    encoded = [handle.metrics for handle in handles if "kl" in handle.metrics]
    if not encoded:
        return None
    first = encoded[0]
    kl = {t: max(metrics["kl"][t] for metrics in encoded) for t in first["kl"]}
    return LogitEncoding(bytes_per_row=first["bytes_per_row"], kl=kl, kl_rows=first["kl_rows"])
