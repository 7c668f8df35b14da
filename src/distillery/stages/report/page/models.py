"""The front: test quality of every model against what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from distillery.ops.pareto import front
from distillery.stages.evaluation.record import ModelRow
from distillery.stages.report.page import svg
from distillery.stages.report.page.words import NONE, count, fixed, number, settings_of
from distillery.stages.report.record import Report
from distillery.stages.roles import Role

QualityName = Literal["accuracy", "nll"]
CostName = Literal["latency_ms_p50", "params"]

INT8 = "int8"
QUALITIES: dict[QualityName, str] = {"accuracy": "test accuracy", "nll": "test NLL (less is better)"}
COSTS: dict[CostName, str] = {"latency_ms_p50": "latency at batch 1, p50 (ms)", "params": "parameters"}
SHAPES = {
    Role.TEACHER.value: "circle",
    Role.ENSEMBLE.value: "diamond",
    Role.PLAIN.value: "up",
    Role.TUNED.value: "square",
    Role.STUDENT.value: "circle",
    INT8: "down",
}


@dataclass(frozen=True)
class Point:
    """A model in the front.

    Attributes:
        kind: Its role, or ``int8`` for the student with int8 weights.
        settings: How it was made.
    """

    kind: str
    name: str
    accuracy: float
    nll: float
    params: int | None
    latency_ms_p50: float | None
    chosen: bool = False
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Kind and name."""
        return f"{self.kind.replace('_', ' ')} {self.name}"

    def cost(self, name: CostName) -> float:
        """A cost that is known."""
        value = self.params if name == "params" else self.latency_ms_p50
        assert value is not None
        return value

    def quality(self, name: QualityName) -> float:
        """Accuracy or NLL."""
        return self.accuracy if name == "accuracy" else self.nll


def views(report: Report) -> list[dict[str, str]]:
    """The front in all four views, each with its `name` and `picture`."""
    pictures = []
    for quality in QUALITIES:
        for cost in COSTS:
            name = f"{'NLL' if quality == 'nll' else quality} / {'latency' if cost != 'params' else cost}"
            pictures.append({"name": name, "picture": front_chart(report, quality, cost)})
    return pictures


def front_chart(report: Report, quality: QualityName, cost: CostName) -> str:
    """One view of the front, its non-dominated models joined by steps; empty where no model's cost is known."""
    measured = [point for point in every_model(report) if (point.params if cost == "params" else point.latency_ms_p50)]
    shown = sorted(measured, key=_order)
    if not shown:
        return ""
    x, y = svg.plane([p.cost(cost) for p in shown], [p.quality(quality) for p in shown], log_x=True)
    parts = [svg.axes(x, y, COSTS[cost], QUALITIES[quality]), _steps(shown, quality, cost, x, y)]
    for index, point in enumerate(shown):
        at = x(point.cost(cost)), y(point.quality(quality))
        parts.append(svg.point(SHAPES[point.kind], *at, description(point), role_class(point), first=index == 0))
    for point in shown:
        if point.chosen:
            parts.append(_name(point, x(point.cost(cost)), y(point.quality(quality))))
    return svg.picture(f"{QUALITIES[quality]} of every model against {COSTS[cost]}", *parts)


def every_model(report: Report) -> list[Point]:
    """The models of the report, and the candidate with int8 weights as a further one."""
    points = [_point(row, report) for row in report.rows]
    candidate = report.candidate
    for served in report.served:
        if served.name == INT8:
            settings = {"file": f"{number(served.size_mb)} MB", "weights and activations": "int8"}
            latency = served.latency_ms_p50
            point = Point(
                INT8, candidate.name, served.accuracy, served.nll, candidate.params, latency, settings=settings
            )
            points.append(point)
    return points


def _point(row: ModelRow, report: Report) -> Point:
    return Point(
        row.role.value,
        row.name,
        row.accuracy,
        row.nll,
        row.params,
        row.latency_ms_p50,
        row.chosen,
        settings_of(row, report),
    )


def description(point: Point) -> list[str]:
    """Lines that describe a point: role and name, figures, and every setting."""
    latency = NONE if point.latency_ms_p50 is None else f"{number(point.latency_ms_p50)} ms"
    lines = [
        point.title + (" (chosen)" if point.chosen else ""),
        f"accuracy: {fixed(point.accuracy)}",
        f"NLL: {fixed(point.nll)}",
        f"latency p50: {latency}",
        f"parameters: {count(point.params)}",
    ]
    return lines + [f"{name}: {value}" for name, value in point.settings.items()]


def role_class(point: Point) -> str:
    """The class that gives a model its colour."""
    return _class(point.kind) + (" chosen" if point.chosen else "")


def legend(points: Sequence[Point]) -> list[dict[str, str]]:
    """`name`, `class` and `mark` of every role that is there."""
    kinds = [kind for kind in SHAPES if any(point.kind == kind for point in points)]
    lines = []
    for kind in kinds:
        mark = svg.mark(SHAPES[kind], 9, 9, 6)
        lines.append({"name": kind.replace("_", " "), "class": _class(kind), "mark": mark})
    return lines


def _class(kind: str) -> str:
    return f"role-{kind.replace('_', '-')}"


def _order(point: Point) -> tuple[int, bool]:
    return list(SHAPES).index(point.kind), point.chosen


def _steps(points: Sequence[Point], quality: QualityName, cost: CostName, x: svg.Scale, y: svg.Scale) -> str:
    sign = 1 if quality == "nll" else -1
    best = front(np.array([[point.cost(cost), sign * point.quality(quality)] for point in points]))
    corners: list[tuple[float, float]] = []
    for index in best:
        at = x(points[index].cost(cost)), y(points[index].quality(quality))
        if corners:
            corners.append((at[0], corners[-1][1]))
        corners.append(at)
    return svg.path(corners, "front-line")


def _name(point: Point, x: float, y: float) -> str:
    """The name beside a point, towards the middle."""
    left = x > svg.WIDTH / 2
    return svg.text(point.title, x + (-14 if left else 14), y - 12, class_="label end" if left else "label")
