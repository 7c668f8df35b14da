"""The report as a table for people.

Names and reasons come from data: every text goes through `plain`, so that rich finds no markup in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distillery.flows.safe_text import plain
from distillery.flows.tracking.history import Entry
from distillery.ops.metrics import Interval
from distillery.stages.evaluation.record import ModelRow
from distillery.stages.report.page.words import decisions, runtimes
from distillery.stages.report.record import Report
from distillery.stages.roles import Role


def show(report: Report, console: Console) -> None:
    """Prints the models, gap recovery, compression and the promotion decision."""
    console.print(_weightings(report))
    console.print(models_table(report.name, report.data.rows["test"], report.rows))
    for line in _figures(report):
        console.print(plain(line))
    if report.winners_curse.shrank:
        console.print(plain("winner's curse:", "yellow") + plain(_winners_curse(report)))

    advice = report.advice
    console.print(plain("to use: ") + plain(advice.choice, "bold") + plain(f". {' '.join(advice.why)}"))
    promotion = report.promotion
    verdict = plain("promoted to @champion", "green") if promotion.promoted else plain("not promoted", "yellow")
    console.print(plain(f"{report.name} version {promotion.version}: ") + verdict)
    for reason in promotion.reasons:
        console.print(plain(f"  - {reason}"))
    if used := decisions(promotion):
        console.print(plain(used))
    cached = f"; found finished: {', '.join(report.cached)}" if report.cached else ""
    console.print(plain(f"{report.seconds['total']:.0f} s{cached}"))


def _figures(report: Report) -> list[str]:
    """Lines between the table of models and the verdict."""
    lines = []
    for role, recovery in report.gap_recovery.items():
        shown = f"accuracy {_interval(recovery.accuracy)}, nll {_interval(recovery.nll)}"
        lines.append(f"gap recovery against the {role.words}: {shown}")
    if len(report.seeds) > 1:
        lines.append(_seeds(report))
    ratios = ", ".join(f"{name} {ratio:.3g}×" for name, ratio in report.compression if ratio)
    lines.append(f"smaller than the ensemble: {ratios}")
    for served in report.served:
        figures = f"accuracy {served.accuracy:.4f}, NLL {served.nll:.4f}, {served.size_mb:.3g} MB"
        request = f"a whole request, preprocessing included, takes {served.request_ms_p50:.3g} ms (p50)"
        lines.append(f"served in {served.name}: {figures}, {request}")
    lines.append(f"ensemble: {report.weights.reason}")
    if report.encoding is not None:
        lost = ", ".join(f"{kl:.2g} at T {t}" for t, kl in report.encoding.kl.items())
        kept = f"{report.encoding.bytes_per_row} bytes a row"
        lines.append(f"cached logits: {kept}; KL to the members' answers in nats: {lost}")
    return lines


def _winners_curse(report: Report) -> str:
    curse = report.winners_curse
    return (
        f" the NLL gain over the baseline was {curse.val_search:.4f} on the rows that chose the setting, "
        f"{curse.test.value:.4f} on test"
    )


def history_table(name: str, entries: Sequence[Entry], aliases: Mapping[str, int]) -> Table:
    """A row per decision, oldest first."""
    now = ", ".join(f"{alias} version {version}" for alias, version in aliases.items())
    table = Table(title=_title(f"{name}: {now or 'no champion'}; times in UTC"), title_justify="left")
    for column in ("#", "when", "who", "action", "version", "over", "why", "data", "commit"):
        table.add_column(column, justify="right" if column in ("#", "version", "over") else "left")
    for entry in entries:
        against = [r for r in entry.reasons if not r.startswith(("passed ", "open "))]
        over = "-" if entry.over is None else str(entry.over)
        dirty = "*" if (entry.commit or "").endswith("-dirty") else ""
        origin = ((entry.data or "-")[:7], (entry.commit or "-")[:7] + dirty)
        cells = (
            str(entry.number),
            entry.when[:16].replace("T", " "),
            entry.who,
            entry.action,
            str(entry.version),
            over,
            "; ".join(against),
            *origin,
        )
        _add(table, cells, style="bold" if entry.moves else None)
    return table


def models_table(name: str, test_rows: int, rows: Sequence[ModelRow]) -> Table:
    """A row per model that an evaluation has judged."""
    where = f"latency of one encoded row on one thread, {runtimes(rows)}"
    table = Table(title=_title(f"{name}: {test_rows} test rows; {where}"))
    table.add_column("role")
    table.add_column("name")
    columns = ("accuracy", "nll", "brier", "ece", "params", "MACs", "MB", "p50 ms", "p95 ms", "rows/s")
    for column in columns:
        table.add_column(column, justify="right")
    previous = None
    for row in rows:
        part = row.role if row.role in (Role.TEACHER, Role.ENSEMBLE) else row.name
        if previous not in (None, part):
            table.add_section()
        previous = part
        cells = (
            row.role.words,
            f"{row.name} *" if row.chosen else row.name,
            f"{row.accuracy:.4f}",
            f"{row.nll:.4f}",
            f"{row.brier:.4f}",
            f"{row.ece:.4f}",
            _count(row.params),
            _count(row.macs),
            _figure(row.size_mb),
            _figure(row.latency_ms_p50),
            _figure(row.latency_ms_p95),
            _count(row.throughput_per_s),
        )
        _add(table, cells, "bold" if row.role is Role.STUDENT and row.chosen else None)
    return table


def _weightings(report: Report) -> Table:
    """The candidates for the ensemble, the one in use in bold."""
    table = Table(title="ensemble weights, cross-fitted on val_ensemble", title_justify="left")
    for column in ("weighting", "pool"):
        table.add_column(column)
    for column in ("accuracy", "nll", "nll gain over uniform", "weights"):
        table.add_column(column, justify="right")
    for row in report.weights.candidates:
        used = row.weighting == report.weights.weighting and row.pool == report.weights.pool
        weights = " ".join(f"{weight:.2f}" for weight in row.weights[:6])
        cells = (
            f"{row.weighting} *" if used else row.weighting,
            row.pool,
            f"{row.accuracy:.4f}",
            f"{row.nll:.4f}",
            f"{row.nll_gain:+.4f} [{row.nll_gain_low:+.4f}, {row.nll_gain_high:+.4f}]",
            f"{weights} ..." if len(row.weights) > 6 else weights,
        )
        _add(table, cells, style="bold" if used else None)
    return table


def _title(text: str) -> Text:
    return plain(text, "table.title")


def _add(table: Table, cells: Sequence[str], style: str | None) -> None:
    table.add_row(*(plain(cell) for cell in cells), style=style)


def _seeds(report: Report) -> str:
    """Mean and standard deviation over seeds of the chosen capacity's networks."""
    parts = []
    for role in (Role.STUDENT, Role.TUNED, Role.PLAIN):
        values = [networks[role].accuracy for networks in report.seeds if role in networks]
        if values:
            parts.append(f"{role.words} {np.mean(values):.4f} ± {np.std(values):.4f}")
    return f"accuracy over {len(report.seeds)} seeds: {', '.join(parts)}"


def _interval(found: Interval) -> str:
    if found.value is None or found.low is None or found.high is None:
        return found.note
    return f"{100 * found.value:.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
