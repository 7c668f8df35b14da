"""A benchmark's results as tables for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show(content: dict[str, Any], console: Console) -> None:
    """Prints both tables."""
    table = Table(title="quality: mean over seeds")
    for column in ("dataset", "method", "figure", "mean", "low", "high"):
        table.add_column(column, justify="left" if column in ("dataset", "method", "figure") else "right")
    for row in content["rows"]:
        numbers = ["" if row[k] is None else f"{row[k]:.4f}" for k in ("mean", "low", "high")]
        table.add_row(row["dataset"], row["method"], f"{row['figure']} {row['unit']}", *numbers)
    console.print(table)
    goals = Table(title="goals")
    for column in ("goal", "what", "reached", "expected", ""):
        goals.add_column(column)
    for goal in content["goals"]:
        verdict = "[green]met[/]" if goal["met"] else "[red]missed[/]"
        goals.add_row(goal["goal"], goal["text"], f"{goal['value']:.4f}", f"{goal['limit']:g}", verdict)
    console.print(goals)
