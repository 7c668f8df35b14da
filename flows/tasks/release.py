"""The end of the chain: the student becomes a model version, the champion is chosen, the report is written."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import prefect.runtime
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from distillery.config.experiment import Data
from distillery.flows.console.summary import summary
from distillery.flows.tasks.stages import Context, stage
from distillery.flows.tracking import history, lifecycle, registry
from distillery.ops.metrics import row_correct, row_nll
from distillery.serving.reading import Reading
from distillery.sources import Rows
from distillery.stages.data import dataset
from distillery.stages.export import onnx_model, quantized
from distillery.stages.promotion.decision import Decision, Outcome, decide, gate_figures
from distillery.stages.report import assembly
from distillery.stages.report.page import page
from distillery.stages.report.page.words import runtimes
from distillery.store import Handle, fingerprint, write_json

FIGURES = ("accuracy", "nll", "brier", "ece", "params", "size_mb", "latency_ms_p50", "latency_ms_p95")
PLACES = ("path", "test_path", "unlabeled_path", "root", "download", "on_error")  # options that move no row


@stage(name="export")
def export_student(ctx: Context, student: Handle, data: Handle, rows: Rows) -> Handle:
    """The student as one ONNX file, compared with torch on real rows."""
    return ctx.done(onnx_model.export_student(student, data, rows, ctx.config.evaluation.latency_runs, ctx.store))


@stage(name="served")
def measure_served(ctx: Context, exported: Handle, data: Handle, rows: Rows) -> Handle:
    """The exported student and its int8 twin, measured."""
    runs = ctx.config.evaluation.latency_runs
    handle = quantized.measure_served(exported, data, rows, runs, ctx.store)
    assert ctx.tracker.parent is not None
    for file in (handle.file("served.json"), handle.file(quantized.INT8)):
        if file.exists():
            ctx.tracker.parent.file(file, "served")
    return ctx.done(handle)


@stage(name="release")
def release(ctx: Context, exported: Handle, evaluation: Handle, data: Handle, rows: Rows) -> dict[str, Any]:
    """`promoted`, `version`, `reasons`, `gates`: the decision about this student, made once and kept on its version.

    `decisions` says how often these test rows, and any of this model's, have decided so far.
    """
    client, name = ctx.tracker.client, ctx.config.name
    content = evaluation.json("evaluation.json")
    key = f"release-{exported.fingerprint}-{evaluation.fingerprint}"
    with ctx.tracker.child("release", "release", key) as run, lifecycle.turn(client, ctx.places, name) as turn:
        row = next(r for r in content["rows"] if r["role"] == "student" and r["chosen"])
        figures = {k: row[k] for k in FIGURES} | exported.metrics
        test_rows = _test_rows(data, rows)
        tags = {"student": row["name"], "test_rows": str(content["test_rows"]), "test_rows_content": test_rows}
        tags |= {"data": data.fingerprint, "dealing": dealing(ctx.config.data, rows)}
        tags |= {f"test.{k}" if k in ("accuracy", "nll") else k: f"{v:.6g}" for k, v in figures.items()}
        registered = registry.register(client, name, exported, rows, content["classes"], run, tags)
        registry.describe(client, name, registered, run, figures)
        judge, rules = partial(_judge, ctx, exported, evaluation, data, rows), fingerprint(ctx.config.gates)
        decision = turn.consider(registered.version, rules, judge, prefect.runtime.flow_run.id)
        if run.fresh:
            run.params({"role": "release", "version": registered.version})
            run.metrics({k: v for k, v in figures.items() if k.startswith(("latency", "request", "parity"))})
            run.tags({"promoted": decision.promoted, "reasons": "; ".join(decision.reasons)})
        decided = history.decisions(turn.entries, test_rows)
    gates = [asdict(gate) for gate in decision.gates]
    found = {"promoted": decision.promoted, "version": registered.version, "reasons": decision.reasons}
    return {**found, "gates": gates, "decisions": decided}


def _judge(
    ctx: Context, exported: Handle, evaluation: Handle, data: Handle, rows: Rows, champion: int | None
) -> Decision:
    content, opened, settings = evaluation.json("evaluation.json"), dataset.Dataset(data), ctx.config.evaluation
    labels = opened.labels("test")
    with np.load(evaluation.file("test_logits.npz")) as arrays:
        student = Outcome("student", *_per_row(arrays[content["student"]], labels))
    rival = None
    if champion is not None:
        ids = opened.splits["test"]
        client, name = ctx.tracker.client, ctx.config.name
        probs, problem = registry.champion_probabilities(client, name, champion, rows, ids, opened.classes)
        if probs is None:
            return Decision(False, [f"cannot be compared with champion version {champion}: {problem}"])
        rival = Outcome(f"champion version {champion}", *_per_row(np.log(np.maximum(probs, 1e-12)), labels))
    figures = gate_figures(content, exported.metrics)
    decision = decide(
        ctx.config.gates, figures, student, rival, resamples=settings.resamples, confidence=settings.confidence
    )
    if champion is not None:
        decision.reasons.extend(_doubt(ctx, champion, data, rows))
    return decision


def _doubt(ctx: Context, champion: int, data: Handle, rows: Rows) -> list[str]:
    """What there is to say of a champion whose training rows can be among the test rows."""
    tags = ctx.tracker.client.get_model_version(ctx.config.name, str(champion)).tags
    stays = ctx.config.data.split.order == "hashed" or rows.given_test is not None
    if tags.get("data") == data.fingerprint or (stays and tags.get("dealing") == dealing(ctx.config.data, rows)):
        return []
    remedy = ""
    if not stays:
        why = "it is of other data"
        remedy = "; data.split.order 'hashed' keeps rows where they were"
    elif "dealing" not in tags:
        why = "it does not say how its rows were split"
    else:
        why = "its rows were split otherwise, by other columns, kinds of columns, options of the data, shares or seed"
    return [
        f"champion version {champion} is in doubt: {why}, so it may have learned from some of these test rows, which "
        f"favours it{remedy}"
    ]


def _test_rows(data: Handle, rows: Rows) -> str:
    """Digest of what the test rows hold, whatever the other rows and the preprocessing that is fitted on them."""
    if rows.kind == "image":
        digests: dict[str, str] = data.json("dataset.json")["digests"]
        return digests["test"]
    contents = np.sort(rows.contents()[dataset.Dataset(data).splits["test"]])
    return fingerprint(contents.tolist())


def dealing(data: Data, rows: Rows) -> str:
    """Digest of all that says which split a row falls into, besides the rows themselves.

    Where it is the same and the order is `hashed`, or the test rows came with the data, a row stays in its split.
    """
    kinds = None if rows.frame is None else (rows.reading or Reading.of_frame(rows.frame)).to_json()
    options = {name: value for name, value in data.options.items() if name not in PLACES}
    return fingerprint(data.source, options, kinds, data.split, rows.given_test is not None)


def _per_row(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return row_nll(logits, labels), row_correct(logits, labels)


@stage(name="report")
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
    parent = ctx.tracker.parent
    assert parent is not None
    url = ctx.tracker.url(parent)
    tree["mlflow_run"] = {"id": parent.id, "url": url, "report": ctx.tracker.url(parent, "report.html")}
    tree["price_per_hour"] = ctx.places.price_per_hour
    folder = ctx.places.runs / ctx.config.name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", tree)
    (folder / "report.html").write_text(page(tree))
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
    _artifacts(ctx.config.name, tree, url)
    return tree


def _artifacts(name: str, tree: dict[str, Any], url: str) -> None:
    slug = "".join(c if c.isalnum() else "-" for c in name.lower())
    columns = ("role", "name", "accuracy", "nll", "params", "latency_ms_p50")
    table = [{c: round(r[c], 4) if isinstance(r[c], float) else r[c] for c in columns} for r in tree["rows"]]
    create_table_artifact(table, key=f"{slug}-results", description=f"Every model of {name} on its test split")
    page_url = tree["mlflow_run"]["report"]
    create_link_artifact(page_url, link_text="Report", key=f"{slug}-page", description="Everything on one page")
    create_link_artifact(url, link_text="MLflow run", key=f"{slug}-mlflow", description="Figures, curves and children")
    create_markdown_artifact(summary(tree), key=f"{slug}-report", description="The decision and what it rests on")
