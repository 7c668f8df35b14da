"""The report as one page of HTML that needs nothing else: styles, script and pictures are inside.

Everything on it comes from the report. Without a script all of it is there to read; the script adds what points
tell when they are pointed at, and tables that sort.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from distillery.stages.promotion.gates import Verdict
from distillery.stages.promotion.record import Promotion
from distillery.stages.report import cost_ledger
from distillery.stages.report.page import history, models, quality, words
from distillery.stages.report.record import Report
from distillery.stages.roles import Role

HERE = Path(__file__).parent
STATES = {True: "passed", False: "failed", None: "open"}


def page(report: Report) -> str:
    """The HTML of a report."""
    settings = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=FileSystemLoader(HERE / "templates"), **settings)  # type: ignore[arg-type]
    for filter_ in (
        words.number,
        words.fixed,
        words.signed,
        words.count,
        words.percent,
        words.seconds,
        words.interval,
    ):
        environment.filters[filter_.__name__] = filter_
    files = {name: (HERE / "templates" / f"page.{name}").read_text() for name in ("css", "js")}
    per_hour = report.price_per_hour
    return environment.get_template("page.html").render(
        **files,
        t=report,
        candidate=report.candidate,
        small=report.candidate.role.words,
        whole=report.ensemble,
        rival=report.rival,
        shared=[role for role in report.gains if role in (Role.ENSEMBLE, report.rival)],
        roles=Role,
        gates=[_gate(verdict) for verdict in report.promotion.gates],
        notes=_other_reasons(report.promotion),
        settings={row.title: words.settings_of(row, report) for row in report.rows},
        config=json.dumps(report.config, indent=1),
        link=report.mlflow_run,
        money=None if per_hour is None else lambda seconds: words.money(cost_ledger.price(seconds, per_hour)),
        percent_of=words.percent,
        words=words,
        models=models,
        history=history,
        quality=quality,
    )


@dataclass(frozen=True)
class GateLine:
    """A gate by parts: its figure's name, what was wanted, why it was not judged, and its figures as a picture."""

    state: str
    name: str
    wanted: str
    note: str
    value: float | None
    low: float | None
    high: float | None
    picture: str


def _gate(verdict: Verdict) -> GateLine:
    name, _, rest = verdict.text.partition(": expected ")
    wanted, _, note = rest.partition(", not judged: ")
    wanted = wanted.partition(", got ")[0]
    picture = quality.gate_chart(verdict, least=wanted.startswith("at least"))
    state = STATES[verdict.passed]
    return GateLine(state, name, wanted, note, verdict.value, verdict.low, verdict.high, picture)


def _other_reasons(promotion: Promotion) -> list[str]:
    """What was said beside the gates, for instance about the champion."""
    texts = [gate.text for gate in promotion.gates]
    return [reason for reason in promotion.reasons if not any(reason.endswith(text) for text in texts)]
