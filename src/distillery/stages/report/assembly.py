"""The result file: everything a reader needs to judge a run, as one JSON tree."""

from __future__ import annotations

import copy
from typing import Any

from distillery.config.experiment import Experiment
from distillery.stages.data.dataset import Dataset
from distillery.stages.ensemble.record import EnsembleChoice
from distillery.stages.report.advice import advise
from distillery.stages.report.cost_ledger import ledger, passes
from distillery.stages.search.importances import importances
from distillery.stages.search.student_search import baseline_knobs
from distillery.store import Handle

JUDGED = (
    "gains",
    "gap_recovery",
    "seeds",
    "worst_class_drop",
    "by_class",
    "reliability",
    "groups",
    "robustness",
    "optimism",
    "compression",
)

TIMES = ("latency", "throughput", "request")


def assemble(
    config: Experiment,
    data: Handle,
    ensemble: Handle,
    search: Handle,
    baseline_search: Handle,
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
        baseline_search: The same without a teacher.
        evaluation: Stage `evaluation`.
        export: Stage `export`.
        promotion: `promoted`, `version`, `reasons`, `gates`, and `decisions`: how often test rows decided before.
        handles: Of all stages, for what each cost and which were found finished.
        total_seconds: Wall time of this run.
    """
    judged = evaluation.json("evaluation.json")
    pooled = EnsembleChoice.read(ensemble)
    told = pooled.model_dump(mode="json")
    found, alone = search.json("search.json"), baseline_search.json("search.json")
    rows = judged["rows"]
    for row in rows:
        if row["role"] == "student" and row["chosen"]:
            row.update({k: v for k, v in export.metrics.items() if k != "parity"})
    quality = config.search.objectives[0]
    counted = passes(config, data.metrics["rows_train"], found["trials"], handles)
    spent = ledger(config, counted, rows, handles)
    tree = {
        "name": config.name,
        "classes": judged["classes"],
        "rows": rows,
        "teachers": {
            name: {"model": member.model_dump(mode="json"), "recipe": config.teachers.recipe_of(member).model_dump()}
            for name, member, _ in config.teachers.each()
        },
        "weights": {
            "weighting": pooled.used.weighting,
            "pool": pooled.used.pool,
            "temperature": pooled.used.temperature,
            "members": pooled.weights,
            "reason": pooled.reason,
            "candidates": told["table"],
            **{k: told[k] for k in ("diversity", "pruning", "left_out", "notes")},
        },
        "search": {
            **{k: found[k] for k in ("study", "objectives", "trials", "front", "ranked", "chosen")},
            "importances": importances(found["trials"], config.search, quality),
        },
        "baseline_search": {
            **{k: alone[k] for k in ("study", "objectives", "trials", "ranked")},
            "importances": importances(alone["trials"], baseline_knobs(config), quality),
        },
        **{k: judged[k] for k in JUDGED},
        "export": export.metrics,
        "served": next((h.json("served.json") for h in handles if h.stage == "served"), []),
        "promotion": promotion,
        "data": {
            **data.metrics,
            "skipped_rows": Dataset(data).skipped,
            "notes": Dataset(data).notes,
            "test_rows_digest": judged["test_rows_digest"],
        },
        "config": config.model_dump(mode="json"),
        "store": {handle.stage: handle.path for handle in (data, ensemble, search, evaluation, export)},
        "encoding": _encoding(handles),
        "passes": counted,
        "ledger": spent,
        "seconds": {**{k: v["computed"] + v["found"] for k, v in spent["stages"].items()}, "total": total_seconds},
        "cached": sorted({h.stage for h in handles} - {h.stage for h in handles if not h.cached}),
    }
    return {**tree, "advice": advise(tree, config.search.max_latency_ms)}


def _encoding(handles: list[Handle]) -> dict[str, Any] | None:
    """Bytes of a row of encoded logits, and the largest of the members' mean KL at each temperature; None if exact."""
    encoded = [h.metrics for h in handles if "kl" in h.metrics]
    if not encoded:
        return None
    kl = {t: max(metrics["kl"][t] for metrics in encoded) for t in encoded[0]["kl"]}
    return {"bytes_per_row": encoded[0]["bytes_per_row"], "kl": kl, "kl_rows": encoded[0]["kl_rows"]}


def without_timing(report: dict[str, Any]) -> dict[str, Any]:
    """A copy of a report without what a clock decides and without where it was recorded: equal for equal runs."""
    tree: dict[str, Any] = copy.deepcopy(report)
    for key in ("seconds", "ledger", "cached", "mlflow_run", "price_per_hour", "advice", "store"):
        tree.pop(key, None)
    for row in [
        *tree["rows"],
        tree["export"],
        *tree["served"],
        tree["compression"],
        *tree["search"]["trials"],
        *tree["baseline_search"]["trials"],
    ]:
        for key in [k for k in row if k == "seconds" or any(word in k for word in TIMES)]:
            row.pop(key)
    tree["search"].pop("front")  # latency may be one of its objectives
    gates = tree["promotion"].get("gates", [])
    timed = ("latency_ms", "request_ms")
    tree["promotion"]["gates"] = [gate for gate in gates if not gate["figure"].startswith(timed)]
    reasons = tree["promotion"]["reasons"]
    tree["promotion"]["reasons"] = [t for t in reasons if not any(name.replace("_", " ") in t for name in timed)]
    return tree
