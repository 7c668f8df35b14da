"""The result file: everything a reader needs to judge a run, as one JSON tree."""

from __future__ import annotations

import copy
from typing import Any

from distillery.config import Experiment
from distillery.dataset import Dataset
from distillery.store import Handle


def assemble(
    config: Experiment,
    data: Handle,
    ensemble: Handle,
    search: Handle,
    evaluation: Handle,
    export: Handle,
    promotion: dict[str, Any],
    handles: list[Handle],
    total_seconds: float,
) -> dict[str, Any]:
    """The report of a run.

    Args:
        config: The experiment.
        data: Stage `data`.
        ensemble: Stage `ensemble`.
        search: Stage `search`.
        evaluation: Stage `evaluation`.
        export: Stage `export`.
        promotion: `promoted`, `version`, `reasons`.
        handles: Of all stages, for what each cost and which were found finished.
        total_seconds: Wall time of this run.
    """
    judged = evaluation.json("evaluation.json")
    pooled = ensemble.json("ensemble.json")
    found = search.json("search.json")
    used = pooled["table"][pooled["chosen"]]
    rows = judged["rows"]
    for row in rows:
        if row["role"] == "student" and row["chosen"]:
            row.update({k: v for k, v in export.metrics.items() if k != "parity"})
    return {
        "name": config.name,
        "classes": judged["classes"],
        "rows": rows,
        "weights": {
            "weighting": used["weighting"],
            "pool": used["pool"],
            "members": dict(zip(pooled["members"], used["weights"], strict=True)),
            "reason": pooled["reason"],
            "candidates": pooled["table"],
        },
        "search": {
            "study": found["study"],
            "trials": found["trials"],
            "front": found["front"],
            "best": found["best"],
            "chosen": found["chosen"],
        },
        "gap_recovery": judged["gap_recovery"],
        "compression": judged["compression"],
        "export": export.metrics,
        "promotion": promotion,
        "data": {**data.metrics, "skipped_rows": Dataset(data).skipped, "test_rows_digest": judged["test_rows_digest"]},
        "config": config.model_dump(mode="json"),
        "seconds": {**_seconds(handles), "total": total_seconds},
        "cached": sorted({h.stage for h in handles} - {h.stage for h in handles if not h.cached}),
    }


def _seconds(handles: list[Handle]) -> dict[str, float]:
    """Seconds of computing by stage, summed over its parts, which may have run side by side or in an earlier run."""
    spent: dict[str, float] = {}
    for handle in {h.path: h for h in handles}.values():
        spent[handle.stage] = spent.get(handle.stage, 0.0) + handle.seconds
    return spent


def without_timing(report: dict[str, Any]) -> dict[str, Any]:
    """A copy of a report without what a clock decides and without where it was recorded: equal for equal runs."""
    tree: dict[str, Any] = copy.deepcopy(report)
    for key in ("seconds", "cached", "mlflow_run"):
        tree.pop(key, None)
    for row in [*tree["rows"], tree["export"], tree["compression"], *tree["search"]["trials"]]:
        for key in [k for k in row if "latency" in k or "throughput" in k or k == "seconds"]:
            row.pop(key)
    tree["search"].pop("front")  # latency may be one of its objectives
    return tree
