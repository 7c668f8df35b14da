"""The report in Markdown, for the run's description in MLflow and the flow run's page in Prefect.

Names and reasons come from data: every text goes through `markdown`, so that no page finds markup or HTML in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distillery.flows.safe_text import markdown
from distillery.stages.evaluation.record import Gain, GroupRow, ModelRow
from distillery.stages.report.advice import Option
from distillery.stages.report.page.words import decisions, runtimes
from distillery.stages.report.record import Report
from distillery.stages.roles import Role

OPTIONS = ("choice", "accuracy on val_search", "accuracy on test", "NLL on test", "p50 ms", "MB", "training s")


def summary(report: Report) -> str:
    """Verdict, advice, gates, and the tables behind them."""
    promotion = report.promotion
    advice = report.advice
    verdict = "was promoted to champion" if promotion.promoted else "was not promoted"
    choice = markdown(advice.choice)
    why = markdown(" ".join(advice.why))
    parts = [f"**Version {promotion.version} {verdict}. To use: {choice}.** {why}"]
    if report.mlflow_run is not None:
        parts.append(f"[The whole report, with pictures]({report.mlflow_run.report})")
    parts += [
        _table(OPTIONS, [_option(name, option) for name, option in advice.options.items()]),
        "The choice rests on val_search, promotion on test. " + markdown(decisions(promotion)),
        "Gates:\n\n" + "\n".join(f"- {markdown(reason)}" for reason in promotion.reasons),
        _table(("role", "name", "accuracy", "NLL", "ECE", "parameters", "p50 ms"), [_model(r) for r in report.rows]),
        f"p50 is the latency of one encoded row on one thread, {runtimes(report.rows)}.",
        *_recovery(report.gap_recovery),
        f"Ensemble: {markdown(report.weights.reason)}",
    ]
    if report.robustness:
        rows = [[r.disturbance, _number(r.candidate), _number(r.ensemble)] for r in report.robustness]
        parts.append(_table(("accuracy under", report.candidate.role.words, "ensemble"), rows))
    if report.groups is not None:
        rows = [_group(row) for row in report.groups.table]
        parts.append(_table(("group", "rows", "student", "ensemble"), rows))
    return "\n\n".join(parts) + "\n"


def _option(name: str, option: Option) -> list[str]:
    figures = (
        option.val_search_accuracy,
        option.accuracy,
        option.nll,
        option.latency_ms,
        option.size_mb,
        option.training_seconds,
    )
    return [name, *(_number(figure) for figure in figures)]


def _model(row: ModelRow) -> list[str]:
    name = markdown(row.name)
    name = f"**{name}**" if row.chosen else name
    figures = [_number(figure) for figure in (row.accuracy, row.nll, row.ece)]
    params = f"{row.params:,}" if row.params else "-"
    return [row.role.words, name, *figures, params, _number(row.latency_ms_p50)]


def _recovery(recovery: Mapping[Role, Gain]) -> list[str]:
    lines = []
    for role, gain in recovery.items():
        shown = []
        for figure, gap in (("accuracy", gain.accuracy), ("nll", gain.nll)):
            if gap.value is None or gap.low is None or gap.high is None:
                shown.append(f"{figure} {markdown(gap.note)}")
            else:
                shown.append(f"{figure} {100 * gap.value:.0f} % ({100 * gap.low:.0f} to {100 * gap.high:.0f})")
        lines.append(f"Gap recovery against the {role.words}: {', '.join(shown)}")
    return lines


def _group(row: GroupRow) -> list[str]:
    group = markdown(f"{row.column} = {row.value}")
    return [group, str(row.rows), _number(row.accuracy[Role.STUDENT]), _number(row.accuracy[Role.ENSEMBLE])]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * 2 + ["--:"] * (len(head) - 2), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
