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


def show_speed(rows: list[dict[str, Any]], console: Console) -> None:
    """Prints what was reached, and the seconds behind it."""
    table = Table(title="speed: median of the paired ratios")
    for column in ("goal", "what", "ratio", "low", "high", "expected", "unit", ""):
        table.add_column(column, justify="right" if column in ("ratio", "low", "high") else "left")
    for row in rows:
        numbers = [f"{row[k]:.2f}" for k in ("ratio", "low", "high")]
        expected = "" if row["goal"] is None else f"{row['sense']} {row['goal']:.3g}"
        verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[row["met"]]
        table.add_row(row["line"], row["name"], *numbers, expected, row["unit"], verdict)
    console.print(table)
    seconds = Table(title="medians in seconds per unit, and accuracy where both sides train")
    for column in ("side", "what", "CPU", "wall", "accuracy"):
        seconds.add_column(column, justify="right" if column in ("CPU", "wall", "accuracy") else "left")
    for row in (row for row in rows if "reference" in row):
        for side in ("reference", "candidate"):
            found, quality = row[side], row.get("quality", {}).get(side)
            accuracy = "" if quality is None else f"{quality['accuracy']:.4f}"
            seconds.add_row(side, found["what"], f"{found['cpu_s']:.4g}", f"{found['wall_s']:.4g}", accuracy)
        seconds.add_section()
    console.print(seconds)
