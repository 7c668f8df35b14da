"""Registers a student and decides about it, while nobody else may change the aliases of its model."""

from __future__ import annotations

import prefect.runtime

from distillery.config.experiment import Experiment
from distillery.flows.environment import Places
from distillery.flows.tracking import history, lifecycle, registry
from distillery.flows.tracking.runs import Tracker
from distillery.sources import Rows
from distillery.stages.data.split_identity import split_digest, test_rows_digest
from distillery.stages.evaluation.record import EvaluationResult
from distillery.stages.promotion.decision import Decision
from distillery.stages.promotion.judgement import judge_candidate
from distillery.stages.promotion.record import Promotion
from distillery.stages.roles import Role
from distillery.store import Handle, fingerprint

FIGURES = ("accuracy", "nll", "brier", "ece", "params", "size_mb", "latency_ms_p50", "latency_ms_p95")


def decide_and_register(
    tracker: Tracker,
    places: Places,
    config: Experiment,
    exported: Handle,
    evaluation: Handle,
    data: Handle,
    rows: Rows,
) -> Promotion:
    """The decision about a student, which is a version of its model afterwards."""
    client = tracker.client
    name = config.name
    result = EvaluationResult.read(evaluation)
    test_rows = test_rows_digest(data, rows)
    row = result.candidate
    figures = {name: getattr(row, name) for name in FIGURES} | exported.metrics
    tags = {
        "student": row.name,
        "role": row.role.words,
        "taught": str(row.role is Role.STUDENT).lower(),
        "test_rows": str(result.test_rows),
        "test_rows_content": test_rows,
        "data": data.fingerprint,
        "dealing": split_digest(config.data, rows),
    }
    tags |= {f"test.{k}" if k in ("accuracy", "nll") else k: f"{v:.6g}" for k, v in figures.items()}

    def judge(version: int | None) -> Decision:
        champion = None if version is None else registry.champion(client, name, version)
        return judge_candidate(config, exported, evaluation, data, rows, champion)

    key = f"release-{exported.fingerprint}-{evaluation.fingerprint}"
    with tracker.child("release", "release", key) as run, lifecycle.transaction(client, places, name) as transaction:
        registered = registry.register(client, name, exported, rows, result.classes, run, tags)
        registry.describe(client, name, registered, run, figures)
        rules = fingerprint(config.gates)
        decision = transaction.decide(registered.version, rules, judge, prefect.runtime.flow_run.id)
        if run.fresh:
            run.params({"role": "release", "version": registered.version})
            run.metrics({k: v for k, v in figures.items() if k.startswith(("latency", "request", "parity"))})
            run.tags({"promoted": decision.promoted, "reasons": "; ".join(decision.reasons)})
        decided = history.decisions(transaction.entries, test_rows)
    return Promotion(
        promoted=decision.promoted,
        version=registered.version,
        reasons=decision.reasons,
        gates=decision.gates,
        decisions=decided,
    )
