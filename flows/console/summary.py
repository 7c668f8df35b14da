"""The report in Markdown, for the run's description in MLflow and the flow run's page in Prefect.

Names and reasons come from data: every text goes through `markdown`, so that no page finds markup or HTML in it.
"""

from __future__ import annotations

from typing import Any

from distillery.flows.safe_text import markdown
from distillery.stages.report.page.words import decisions, runtimes

OPTIONS = ("choice", "accuracy on val_search", "accuracy on test", "NLL on test", "p50 ms", "MB", "training s")


def summary(report: dict[str, Any]) -> str:
    """Verdict, advice, gates, and the tables behind them."""
    promotion, advice = report["promotion"], report["advice"]
    verdict = "was promoted to champion" if promotion["promoted"] else "was not promoted"
    options = [_option(name, figures) for name, figures in advice["options"].items()]
    choice, why = markdown(advice["choice"]), markdown(" ".join(advice["why"]))
    parts = [
        f"**Version {promotion['version']} {verdict}. To use: {choice}.** {why}",
        _table(OPTIONS, options),
        "The choice rests on val_search, promotion on test. " + markdown(decisions(promotion)),
        "Gates:\n\n" + "\n".join(f"- {markdown(reason)}" for reason in promotion["reasons"]),
        _table(("role", "name", "accuracy", "NLL", "ECE", "parameters", "p50 ms"), [_model(r) for r in report["rows"]]),
        f"p50 is the latency of one encoded row on one thread, {runtimes(report['rows'])}.",
        *_recovery(report["gap_recovery"]),
        f"Ensemble: {markdown(report['weights']['reason'])}",
    ]
    if "mlflow_run" in report:
        parts.insert(1, f"[The whole report, with pictures]({report['mlflow_run']['report']})")
    if report["robustness"]:
        rows = [[r["disturbance"], _number(r["student"]), _number(r["ensemble"])] for r in report["robustness"]]
        parts.append(_table(("accuracy under", "student", "ensemble"), rows))
    if report["groups"]:
        rows = [_group(r) for r in report["groups"]["table"]]
        parts.append(_table(("group", "rows", "student", "ensemble"), rows))
    return "\n\n".join(parts) + "\n"


def _option(name: str, figures: dict[str, Any]) -> list[str]:
    shown = ("val_search_accuracy", "accuracy", "nll", "latency_ms", "size_mb", "training_seconds")
    return [name, *(_number(figures[k]) for k in shown)]


def _model(row: dict[str, Any]) -> list[str]:
    name = markdown(row["name"])
    name = f"**{name}**" if row.get("chosen") else name
    figures = [_number(row[k]) for k in ("accuracy", "nll", "ece")]
    return [row["role"], name, *figures, f"{row['params']:,}" if row["params"] else "-", _number(row["latency_ms_p50"])]


def _recovery(found: dict[str, Any]) -> list[str]:
    lines = []
    for rival, pair in found.items():
        shown = [
            f"{figure} {markdown(v['note'])}"
            if v["value"] is None
            else f"{figure} {100 * v['value']:.0f} % ({100 * v['low']:.0f} to {100 * v['high']:.0f})"
            for figure, v in pair.items()
        ]
        lines.append(f"Gap recovery against the {rival} baseline: {', '.join(shown)}")
    return lines


def _group(row: dict[str, Any]) -> list[str]:
    group = markdown(f"{row['column']} = {row['value']}")
    return [group, str(row["rows"]), _number(row["student"]), _number(row["ensemble"])]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * 2 + ["--:"] * (len(head) - 2), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
