"""The report as one page of HTML that needs nothing else: styles, script and pictures are inside.

Everything on it comes from the report's tree. Without a script all of it is there to read; the script adds what points
tell when they are pointed at, and tables that sort.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from distillery.stages.report import cost_ledger
from distillery.stages.report.page import history, models, quality, words

HERE = Path(__file__).parent
STATES = {True: "passed", False: "failed", None: "open"}


def page(tree: dict[str, Any]) -> str:
    """The HTML of a report, as `report.assemble` gives it.

    `mlflow_run`, where the run is kept, and `price_per_hour`, what an hour of one process costs, may be missing.
    """
    settings = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(HERE / "templates"), **settings)  # type: ignore[arg-type]
    environment.filters |= {
        f.__name__: f
        for f in (words.number, words.fixed, words.signed, words.count, words.percent, words.seconds, words.interval)
    }
    files = {name: (HERE / "templates" / f"page.{name}").read_text() for name in ("css", "js")}
    per_hour = tree.get("price_per_hour")
    return environment.get_template("page.html").render(
        **files,
        t=tree,
        student=next(r for r in tree["rows"] if r["role"] == "student" and r["chosen"]),
        whole=next(r for r in tree["rows"] if r["role"] == "ensemble" and r["chosen"]),
        gates=[_gate(gate) for gate in tree["promotion"]["gates"]],
        notes=_other_reasons(tree["promotion"]),
        settings={f"{r['role']} {r['name']}": words.settings_of(r, tree) for r in tree["rows"]},
        config=json.dumps(tree["config"], indent=1),
        link=tree.get("mlflow_run"),
        money=None if per_hour is None else lambda seconds: words.money(cost_ledger.price(seconds, per_hour)),
        percent_of=words.percent,
        words=words,
        models=models,
        history=history,
        quality=quality,
    )


def _gate(gate: dict[str, Any]) -> dict[str, Any]:
    """A gate by parts: `name`, `wanted`, `note` and `picture` beside its figures."""
    name, _, rest = gate["text"].partition(": expected ")
    wanted, _, note = rest.partition(", not judged: ")
    wanted = wanted.partition(", got ")[0]
    parts = {**gate, "name": name, "wanted": wanted, "note": note, "least": wanted.startswith("at least")}
    return {**parts, "state": STATES[gate["passed"]], "picture": quality.gate_chart(parts)}


def _other_reasons(promotion: dict[str, Any]) -> list[str]:
    """What was said beside the gates, for instance about the champion."""
    told = [gate["text"] for gate in promotion["gates"]]
    return [reason for reason in promotion["reasons"] if not any(reason.endswith(text) for text in told)]
