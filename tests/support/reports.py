"""Reports as trees of plain values, which tests change, and the comparison of two of them."""

from __future__ import annotations

from typing import Any

from distillery.stages.report.page import page
from distillery.stages.report.record import Report

TIMES = ("latency", "throughput", "request")


def page_of(tree: dict[str, Any]) -> str:
    """The page of a report that is given as a tree."""
    return page(Report.model_validate(tree))


def without_timing(report: Report) -> dict[str, Any]:
    """A report as JSON without what a clock decides and without where it was recorded: equal for equal runs."""
    tree = report.model_dump(mode="json")
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
