"""The report as a table for people.

Names and reasons come from data: every text goes through `plain`, so that rich finds no markup in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distillery.flows.safe_text import plain
from distillery.flows.tracking.history import Entry
from distillery.stages.report.page.words import decisions, runtimes


def show(report: dict[str, Any], console: Console) -> None:
    """Prints the models, gap recovery, compression and the promotion decision."""
    console.print(_weightings(report))
    console.print(models_table(report["name"], report["data"]["rows_test"], report["rows"]))
    for rival, pair in report["gap_recovery"].items():
        shown = ", ".join(f"{figure} {_interval(found)}" for figure, found in pair.items())
        console.print(plain(f"gap recovery against the {rival} baseline: {shown}"))
    console.print(plain(_seeds(report)))
    ratios = ", ".join(f"{k} {v:.3g}×" for k, v in report["compression"].items() if v)
    console.print(plain(f"smaller than the ensemble: {ratios}"))
    for served in report["served"]:
        figures = f"accuracy {served['accuracy']:.4f}, NLL {served['nll']:.4f}, {served['size_mb']:.3g} MB"
        request = f"a whole request, preprocessing included, takes {served['request_ms_p50']:.3g} ms (p50)"
        console.print(plain(f"served in {served['name']}: {figures}, {request}"))
    console.print(plain(f"ensemble: {report['weights']['reason']}"))
    if report["encoding"]:
        lost = ", ".join(f"{kl:.2g} at T {t}" for t, kl in report["encoding"]["kl"].items())
        kept = f"{report['encoding']['bytes_per_row']} bytes a row"
        console.print(plain(f"cached logits: {kept}; KL to the members' answers in nats: {lost}"))
    if report["optimism"]["shrank"]:
        found = report["optimism"]
        lost = (
            f" the NLL gain over the baseline was {found['val_search']:.4f} on the rows that chose the setting, "
            f"{found['test']['value']:.4f} on test"
        )
        console.print(plain("winner's curse:", "yellow") + plain(lost))
    advice = report["advice"]
    console.print(plain("to use: ") + plain(advice["choice"], "bold") + plain(f". {' '.join(advice['why'])}"))
    promotion = report["promotion"]
    verdict = plain("promoted to @champion", "green") if promotion["promoted"] else plain("not promoted", "yellow")
    console.print(plain(f"{report['name']} version {promotion['version']}: ") + verdict)
    for reason in promotion["reasons"]:
        console.print(plain(f"  - {reason}"))
    if used := decisions(promotion):
        console.print(plain(used))
    cached = f"; found finished: {', '.join(report['cached'])}" if report["cached"] else ""
    console.print(plain(f"{report['seconds']['total']:.0f} s{cached}"))


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


def models_table(name: str, test_rows: int, rows: Sequence[dict[str, Any]]) -> Table:
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
        part = row["role"] if row["role"] in ("teacher", "ensemble") else row["name"]
        if previous not in (None, part):
            table.add_section()
        previous = part
        name = f"{row['name']} *" if row.get("chosen") else row["name"]
        style = "bold" if row["role"] == "student" and row["chosen"] else None
        cells = (
            row["role"],
            name,
            f"{row['accuracy']:.4f}",
            *(f"{row[k]:.4f}" for k in ("nll", "brier", "ece")),
            _count(row["params"]),
            _count(row["macs"]),
            *(_figure(row[k]) for k in ("size_mb", "latency_ms_p50", "latency_ms_p95")),
            _count(row["throughput_per_s"]),
        )
        _add(table, cells, style)
    return table


def _weightings(report: dict[str, Any]) -> Table:
    used = (report["weights"]["weighting"], report["weights"]["pool"])
    table = Table(title="ensemble weights, cross-fitted on val_ensemble", title_justify="left")
    for column in ("weighting", "pool"):
        table.add_column(column)
    for column in ("accuracy", "nll", "nll gain over uniform", "weights"):
        table.add_column(column, justify="right")
    for row in report["weights"]["candidates"]:
        chosen = (row["weighting"], row["pool"]) == used
        gain = f"{row['nll_gain']:+.4f} [{row['nll_gain_low']:+.4f}, {row['nll_gain_high']:+.4f}]"
        weights = " ".join(f"{weight:.2f}" for weight in row["weights"][:6]) + (
            " ..." if len(row["weights"]) > 6 else ""
        )
        name = f"{row['weighting']} *" if chosen else row["weighting"]
        figures = (f"{row['accuracy']:.4f}", f"{row['nll']:.4f}", gain, weights)
        _add(table, (name, row["pool"], *figures), style="bold" if chosen else None)
    return table


def _title(text: str) -> Text:
    return plain(text, "table.title")


def _add(table: Table, cells: Sequence[str], style: str | None) -> None:
    table.add_row(*(plain(cell) for cell in cells), style=style)


def _seeds(report: dict[str, Any]) -> str:
    """Mean and standard deviation over seeds of the chosen capacity's networks."""
    parts = []
    for role, name in (("students", "student"), ("tuned", "tuned baseline"), ("plain", "plain baseline")):
        values = [record[f"{role}_accuracy"] for record in report["seeds"] if f"{role}_accuracy" in record]
        if values:
            parts.append(f"{name} {np.mean(values):.4f} ± {np.std(values):.4f}")
    return f"accuracy over {len(report['seeds'])} seeds: {', '.join(parts)}"


def _interval(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return str(found["note"])
    return f"{100 * found['value']:.0f} % [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
