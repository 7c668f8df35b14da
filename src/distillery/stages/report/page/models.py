"""The front: test quality of every model against what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from distillery.ops.pareto import front
from distillery.stages.report.page import svg
from distillery.stages.report.page.words import NONE, count, fixed, number, settings_of

QUALITIES = {"accuracy": "test accuracy", "nll": "test NLL (less is better)"}
INT8 = "int8"
COSTS = {"latency_ms_p50": "latency at batch 1, p50 (ms)", "params": "parameters"}
SHAPES = {
    "teacher": "circle",
    "ensemble": "diamond",
    "plain baseline": "up",
    "tuned baseline": "square",
    "student": "circle",
    INT8: "down",
}


def views(tree: dict[str, Any]) -> list[dict[str, str]]:
    """The front in all four views, each with its `name` and `picture`."""
    found = []
    for quality in QUALITIES:
        for cost in COSTS:
            name = f"{'NLL' if quality == 'nll' else quality} / {'latency' if cost != 'params' else cost}"
            found.append({"name": name, "picture": front_chart(tree, quality, cost)})
    return found


def front_chart(tree: dict[str, Any], quality: str, cost: str) -> str:
    """One view of the front, its non-dominated models joined by steps; empty where no model's cost is known.

    Args:
        tree: The report.
        quality: ``accuracy`` or ``nll``.
        cost: ``latency_ms_p50`` or ``params``.
    """
    shown = sorted((r for r in every_model(tree) if r[cost]), key=_order)
    if not shown:
        return ""
    x, y = svg.plane([r[cost] for r in shown], [r[quality] for r in shown], log_x=True)
    parts = [svg.axes(x, y, COSTS[cost], QUALITIES[quality]), _steps(shown, quality, cost, x, y)]
    for place, row in enumerate(shown):
        at = x(row[cost]), y(row[quality])
        parts.append(svg.point(SHAPES[row["role"]], *at, told(row, tree), role_class(row), first=place == 0))
    parts += [_name(row, x(row[cost]), y(row[quality])) for row in shown if row.get("chosen")]
    return svg.picture(f"{QUALITIES[quality]} of every model against {COSTS[cost]}", *parts)


def every_model(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the report, and the student with int8 weights as a further one."""
    student = next(r for r in tree["rows"] if r["role"] == "student" and r["chosen"])
    more = {"role": INT8, "name": student["name"], "params": student["params"]}
    return [*tree["rows"], *({**row, **more} for row in tree["served"] if row["name"] == "int8")]


def told(row: dict[str, Any], tree: dict[str, Any]) -> list[str]:
    """What a point tells: role and name, figures, and every setting."""
    latency = NONE if row["latency_ms_p50"] is None else f"{number(row['latency_ms_p50'])} ms"
    figures = {
        "accuracy": fixed(row["accuracy"]),
        "NLL": fixed(row["nll"]),
        "latency p50": latency,
        "parameters": count(row["params"]),
    }
    title = f"{row['role']} {row['name']}" + (" (chosen)" if row.get("chosen") else "")
    return [title, *(f"{k}: {v}" for k, v in (figures | settings_of(row, tree)).items())]


def role_class(row: dict[str, Any]) -> str:
    """The class that gives a model its colour."""
    return f"role-{row['role'].replace(' ', '-')}" + (" chosen" if row.get("chosen") else "")


def legend(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """`name`, `class` and `mark` of every role that is there."""
    roles = [role for role in SHAPES if any(r["role"] == role for r in rows)]
    return [
        {"name": role, "class": f"role-{role.replace(' ', '-')}", "mark": svg.mark(SHAPES[role], 9, 9, 6)}
        for role in roles
    ]


def _order(row: dict[str, Any]) -> tuple[int, bool]:
    return list(SHAPES).index(row["role"]), bool(row.get("chosen"))


def _steps(rows: list[dict[str, Any]], quality: str, cost: str, x: svg.Scale, y: svg.Scale) -> str:
    sign = 1 if quality == "nll" else -1
    best = front(np.array([[r[cost], sign * r[quality]] for r in rows]))
    corners: list[tuple[float, float]] = []
    for index in best:
        at = x(rows[index][cost]), y(rows[index][quality])
        if corners:
            corners.append((at[0], corners[-1][1]))
        corners.append(at)
    return svg.path(corners, "front-line")


def _name(row: dict[str, Any], x: float, y: float) -> str:
    """The name beside a point, towards the middle."""
    left = x > svg.WIDTH / 2
    name = f"{row['role']} {row['name']}"
    return svg.text(name, x + (-14 if left else 14), y - 12, class_="label end" if left else "label")
