"""The end of the chain: the student becomes a model version, the champion is chosen, the report is written."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from distillery.flows.console.summary import summary
from distillery.flows.tasks.context import Context, step
from distillery.flows.tracking.interface import Untracked
from distillery.sources import Rows
from distillery.stages.export import onnx_model, quantized
from distillery.stages.promotion.decision import Decision
from distillery.stages.promotion.judgement import judge_student
from distillery.stages.report import assembly
from distillery.stages.report.page import page
from distillery.stages.report.page.words import runtimes
from distillery.store import Handle, write_json


@step("export")
def export_student(ctx: Context, student: Handle, data: Handle, rows: Rows) -> Handle:
    """The student as one ONNX file, compared with torch on real rows."""
    return onnx_model.export_student(student, data, rows, ctx.config.evaluation.latency_runs, ctx.store)


@step("served")
def measure_served(ctx: Context, exported: Handle, data: Handle, rows: Rows) -> Handle:
    """The exported student and its int8 twin, measured."""
    runs = ctx.config.evaluation.latency_runs
    handle = quantized.measure_served(exported, data, rows, runs, ctx.store)
    for file in (handle.file("served.json"), handle.file(quantized.INT8)):
        if file.exists():
            ctx.tracker.parent.file(file, "served")
    return handle


@step("release")
def release(ctx: Context, exported: Handle, evaluation: Handle, data: Handle, rows: Rows) -> dict[str, Any]:
    """`promoted`, `version`, `reasons`, `gates`: the decision about this student, made once and kept on its version.

    `decisions` says how often these test rows, and any of this model's, have decided so far. Without a tracker there
    is no registry: nothing is registered, and no champion to beat.
    """
    if isinstance(ctx.tracker, Untracked):
        decision = judge_student(ctx.config, exported, evaluation, data, rows, None)
        return _promotion(decision, None, None)

    from distillery.flows.tracking.release import decide_and_register
    from distillery.flows.tracking.runs import Tracker

    assert isinstance(ctx.tracker, Tracker)
    return _promotion(*decide_and_register(ctx.tracker, ctx.places, ctx.config, exported, evaluation, data, rows))


def _promotion(decision: Decision, version: int | None, decisions: dict[str, Any] | None) -> dict[str, Any]:
    gates = [asdict(gate) for gate in decision.gates]
    found = {"promoted": decision.promoted, "version": version, "reasons": decision.reasons}
    return {**found, "gates": gates, "decisions": decisions}


@step("report")
def write_report(
    ctx: Context,
    data: Handle,
    pooled: Handle,
    found: Handle,
    alone: Handle,
    evaluation: Handle,
    exported: Handle,
    promotion: dict[str, Any],
    total_seconds: float,
) -> dict[str, Any]:
    """``runs/<name>/report.json`` and ``report.html``, the parent run's figures, and Prefect's artifacts."""
    inputs = (data, pooled, found, alone, evaluation, exported)
    tree = assembly.assemble(ctx.config, *inputs, promotion, ctx.handles, total_seconds)
    tree["price_per_hour"] = ctx.places.price_per_hour
    folder = ctx.places.runs / ctx.config.name
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(ctx.tracker, Untracked):
        tree["mlflow_run"] = _addresses(ctx)
    write_json(folder / "report.json", tree)
    (folder / "report.html").write_text(page(tree))
    _record(ctx, tree, folder)
    return tree


def _addresses(ctx: Context) -> dict[str, str]:
    """The pages of the parent run."""
    from distillery.flows.tracking.runs import Tracker

    assert isinstance(ctx.tracker, Tracker)
    parent = ctx.tracker.parent
    return {"id": parent.id, "url": ctx.tracker.url(parent), "report": ctx.tracker.url(parent, "report.html")}


def _record(ctx: Context, tree: dict[str, Any], folder: Path) -> None:
    """The report's files and figures on the parent run, and Prefect's artifacts."""
    if isinstance(ctx.tracker, Untracked):
        return
    parent = ctx.tracker.parent
    promotion = tree["promotion"]
    for name in ("report.json", "report.html"):
        parent.file(folder / name)
    parent.json(tree["config"], "config.yaml")
    row = next(r for r in tree["rows"] if r["role"] == "student" and r["chosen"])
    parent.params({"role": "pipeline", "model": row["name"], "seed": ctx.config.seed, "source": ctx.config.data.source})
    parent.metrics({f"test/{k}": row[k] for k in ("accuracy", "nll", "brier", "ece", "agreement")})
    parent.metrics({f"val_search/{k}": row[f"val_search_{k}"] for k in ("accuracy", "nll")})
    timed = ("latency", "throughput", "request")
    parent.metrics({k: v for k, v in row.items() if k in ("params", "macs", "size_mb") or k.startswith(timed)})
    parent.tags({"latency": f"of one encoded row on one thread, {runtimes(tree['rows'])}"})
    for rival, pair in tree["gap_recovery"].items():
        parent.metrics({f"gap_recovery/{k}_{rival}": v["value"] for k, v in pair.items()})
    parent.metrics({f"seconds/{k}": v for k, v in tree["seconds"].items()})
    parent.tags({"promoted": promotion["promoted"], "version": promotion["version"], "cached": len(tree["cached"])})
    parent.tags({"mlflow.note.content": summary(tree)})
    if ctx.orchestrated:
        _artifacts(ctx.config.name, tree)


def _artifacts(name: str, tree: dict[str, Any]) -> None:
    """The report on the page of Prefect's flow run."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

    url = tree["mlflow_run"]["url"]
    slug = "".join(c if c.isalnum() else "-" for c in name.lower())
    columns = ("role", "name", "accuracy", "nll", "params", "latency_ms_p50")
    table = [{c: round(r[c], 4) if isinstance(r[c], float) else r[c] for c in columns} for r in tree["rows"]]
    create_table_artifact(table, key=f"{slug}-results", description=f"Every model of {name} on its test split")
    page_url = tree["mlflow_run"]["report"]
    create_link_artifact(page_url, link_text="Report", key=f"{slug}-page", description="Everything on one page")
    create_link_artifact(url, link_text="MLflow run", key=f"{slug}-mlflow", description="Figures, curves and children")
    create_markdown_artifact(summary(tree), key=f"{slug}-report", description="The decision and what it rests on")
