"""The end of the chain: the student becomes a model version, the champion is chosen, the report is written."""

from __future__ import annotations

from pathlib import Path

from distillery.flows.console.summary import summary
from distillery.flows.tasks.context import Context, step
from distillery.flows.tracking.interface import Untracked
from distillery.sources import Rows
from distillery.stages.export import onnx_model, quantized
from distillery.stages.export.record import ServedModels
from distillery.stages.promotion.judgement import judge_candidate
from distillery.stages.promotion.record import Promotion
from distillery.stages.report import assembly
from distillery.stages.report.page import page
from distillery.stages.report.page.words import runtimes
from distillery.stages.report.record import Report, RunPages
from distillery.store import Handle


@step("export")
def export_student(ctx: Context, student: Handle, data: Handle, rows: Rows) -> Handle:
    """The student as one ONNX file, compared with torch on real rows."""
    return onnx_model.export_student(student, data, rows, ctx.config.evaluation.latency_runs, ctx.store)


@step("served")
def measure_served(ctx: Context, exported: Handle, data: Handle, rows: Rows) -> Handle:
    """The exported student and its int8 twin, measured."""
    runs = ctx.config.evaluation.latency_runs
    handle = quantized.measure_served(exported, data, rows, runs, ctx.store)
    for file in (handle.file(ServedModels.FILE), handle.file(quantized.INT8)):
        if file.exists():
            ctx.tracker.parent.file(file, "served")
    return handle


@step("release")
def release(ctx: Context, exported: Handle, evaluation: Handle, data: Handle, rows: Rows) -> Promotion:
    """The decision about this student, made once and kept on its version.

    Without a tracker there is no registry: nothing is registered, and no champion to beat.
    """
    if isinstance(ctx.tracker, Untracked):
        decision = judge_candidate(ctx.config, exported, evaluation, data, rows, None)
        return Promotion(
            promoted=decision.promoted, version=None, reasons=decision.reasons, gates=decision.gates, decisions=None
        )

    from distillery.flows.tracking.release import decide_and_register
    from distillery.flows.tracking.runs import Tracker

    assert isinstance(ctx.tracker, Tracker)
    return decide_and_register(ctx.tracker, ctx.places, ctx.config, exported, evaluation, data, rows)


@step("report")
def write_report(
    ctx: Context,
    data: Handle,
    ensemble: Handle,
    search: Handle,
    baseline_search: Handle,
    evaluation: Handle,
    exported: Handle,
    promotion: Promotion,
    total_seconds: float,
) -> Report:
    """``runs/<name>/report.json`` and ``report.html``, the parent run's figures, and Prefect's artifacts."""
    report = assembly.assemble(
        ctx.config,
        data,
        ensemble,
        search,
        baseline_search,
        evaluation,
        exported,
        promotion,
        ctx.handles,
        total_seconds,
    )
    pages = None if isinstance(ctx.tracker, Untracked) else _addresses(ctx)
    report = report.model_copy(update={"price_per_hour": ctx.places.price_per_hour, "mlflow_run": pages})
    folder = ctx.places.runs / ctx.config.name
    folder.mkdir(parents=True, exist_ok=True)
    report.write(folder)
    (folder / "report.html").write_text(page(report))
    _record(ctx, report, folder)
    return report


def _addresses(ctx: Context) -> RunPages:
    """The pages of the parent run."""
    from distillery.flows.tracking.runs import Tracker

    assert isinstance(ctx.tracker, Tracker)
    parent = ctx.tracker.parent
    return RunPages(id=parent.id, url=ctx.tracker.url(parent), report=ctx.tracker.url(parent, "report.html"))


def _record(ctx: Context, report: Report, folder: Path) -> None:
    """The report's files and figures on the parent run, and Prefect's artifacts."""
    if isinstance(ctx.tracker, Untracked):
        return
    parent = ctx.tracker.parent
    for name in (report.FILE, "report.html"):
        parent.file(folder / name)
    parent.json(report.config, "config.yaml")

    row = report.candidate
    config = ctx.config
    parent.params({"role": "pipeline", "model": row.name, "seed": config.seed, "source": config.data.source})
    parent.metrics({f"test/{name}": getattr(row, name) for name in ("accuracy", "nll", "brier", "ece", "agreement")})
    parent.metrics({"val_search/accuracy": row.val_search_accuracy, "val_search/nll": row.val_search_nll})
    for name, value in row:
        if name in ("params", "macs", "size_mb") or name.startswith(("latency", "throughput", "request")):
            parent.metrics({name: value})
    parent.tags({"latency": f"of one encoded row on one thread, {runtimes(report.rows)}"})
    for role, recovery in report.gap_recovery.items():
        for figure in ("accuracy", "nll"):
            parent.metrics({f"gap_recovery/{figure}_{role}": getattr(recovery, figure).value})
    parent.metrics({f"seconds/{stage}": seconds for stage, seconds in report.seconds.items()})

    promotion = report.promotion
    parent.tags({"promoted": promotion.promoted, "version": promotion.version, "cached": len(report.cached)})
    parent.tags({"mlflow.note.content": summary(report)})
    if ctx.orchestrated:
        _artifacts(report)


def _artifacts(report: Report) -> None:
    """The report on the page of Prefect's flow run."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

    pages = report.mlflow_run
    assert pages is not None
    slug = "".join(c if c.isalnum() else "-" for c in report.name.lower())
    table: list[dict[str, object]] = []
    for row in report.rows:
        line: dict[str, object] = {"role": row.role.words, "name": row.name}
        for column in ("accuracy", "nll", "params", "latency_ms_p50"):
            value = getattr(row, column)
            line[column] = round(value, 4) if isinstance(value, float) else value
        table.append(line)
    create_table_artifact(table, key=f"{slug}-results", description=f"Every model of {report.name} on its test split")
    create_link_artifact(pages.report, link_text="Report", key=f"{slug}-page", description="Everything on one page")
    create_link_artifact(
        pages.url, link_text="MLflow run", key=f"{slug}-mlflow", description="Figures, curves and children"
    )
    create_markdown_artifact(summary(report), key=f"{slug}-report", description="The decision and what it rests on")
