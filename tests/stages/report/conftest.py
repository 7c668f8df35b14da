"""A report of the tiny chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_chain import FinishedChain

from distillery.config.gates import SHIP_GATES
from distillery.ops.metrics import Interval
from distillery.stages.export.record import ServedModel, ServedModels
from distillery.stages.promotion.gates import judge
from distillery.stages.promotion.record import DecisionCount, Promotion
from distillery.stages.report import assembly
from distillery.stages.report.record import Report
from distillery.store import Handle, Store

REQUESTS = {"request_ms_p50": 0.1, "request_ms_p95": 0.2, "request_ms_p99": 0.3, "requests_per_s": 9e4}
EXPORT = Handle("export", "student", "/no/where", "0", {"parity": 1e-7, "onnx_mb": 0.5, **REQUESTS}, 3.0)
FOUND = {"worst_class_drop": Interval(0.1, 0.0, 0.2, "cat"), "parity": Interval(1.0, 1.0, 1.0, "at row 3")}


def served(store: Store) -> Handle:
    """What was measured of the exported files."""
    figures: dict[str, Any] = {"accuracy": 0.91, "nll": 0.3, "ece": 0.02, "size_mb": 0.5, **REQUESTS}
    models = [
        ServedModel(name="float32", **figures),
        ServedModel(name="int8", **{**figures, "request_ms_p50": 0.05}, latency_ms_p50=0.01),
    ]

    def build(work: Path) -> dict[str, Any]:
        ServedModels(models=models).write(work)
        return {}

    return store.stage("served", "student", "fixed", build)


@pytest.fixture(scope="session")
def report(finished: FinishedChain) -> Report:
    """The report with one gate passed, one failed and the others open."""
    logits = [handle for part in finished.logits.values() for handle in part]
    networks = [h for f in finished.finals for part in (f.students, f.plain, f.tuned) for h in part]
    stages = [finished.data, finished.ensemble, finished.search, finished.alone, finished.evaluation, EXPORT]
    gates = judge(SHIP_GATES, FOUND)
    words = {True: "passed", False: "FAILED", None: "open"}
    reasons = [*(f"{words[gate.passed]} {gate.text}" for gate in gates), "there is no champion yet"]
    promotion = Promotion(
        promoted=False, version=3, reasons=reasons, gates=gates, decisions=DecisionCount(same_rows=2, all=5)
    )
    handles = [*stages, served(finished.store), *finished.members, *logits, *networks]
    parts = (finished.data, finished.ensemble, finished.search, finished.alone, finished.evaluation, EXPORT)
    return assembly.assemble(finished.config, *parts, promotion, handles, 12.5)
