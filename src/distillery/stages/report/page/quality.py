"""Where a student differs from others: calibration, classes, groups, and gains with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Literal

from distillery.ops.metrics import Interval
from distillery.stages.evaluation.record import Reliability
from distillery.stages.promotion.gates import Verdict
from distillery.stages.report.page import svg
from distillery.stages.report.page.words import interval, number, percent, signed
from distillery.stages.report.record import Report
from distillery.stages.roles import Role

MANY = 40  # classes of which only the largest changes are drawn
ROW, NAMES_END = 30, 210  # of a chart of intervals: height of a line, end of the names
ORDER = (Role.ENSEMBLE, Role.TUNED, Role.PLAIN, Role.STUDENT)
SHAPES = {Role.ENSEMBLE: "diamond", Role.TUNED: "square", Role.PLAIN: "up", Role.STUDENT: "circle"}


def models_of(report: Report) -> list[Role]:
    """Models whose reliability is known, the student last."""
    return [role for role in ORDER if role in report.reliability]


def reliability_chart(report: Report) -> str:
    """Accuracy against confidence in bins of equal mass; on the diagonal a model is as often right as it says."""
    curves = {role: report.reliability[role] for role in _drawn(report)}
    low = min(min(min(curve.confidence), min(curve.accuracy)) for curve in curves.values())
    x, y = svg.plane([low, 1.0], [low, 1.0])
    diagonal = svg.path([(x(low), y(low)), (x(1.0), y(1.0))], "diagonal")
    parts = [svg.axes(x, y, "mean confidence", "accuracy"), diagonal]
    for number_, (role, curve) in enumerate(curves.items()):
        points = [(x(c), y(a)) for c, a in zip(curve.confidence, curve.accuracy, strict=True)]
        colour = role_class(role)
        parts.append(svg.path(points, f"curve {colour}"))
        for index, at in enumerate(points):
            lines = _bin(role, curve, index)
            parts.append(svg.point(SHAPES[role], *at, lines, colour, first=number_ == index == 0))
    return svg.picture("Accuracy against confidence on test", *parts)


def _drawn(report: Report) -> list[Role]:
    """The models of the reliability chart: too many curves hide each other."""
    return [role for role in models_of(report) if role is not Role.PLAIN]


def gains_chart(report: Report, figure: Literal["accuracy", "nll"]) -> str:
    """What the candidate is better by than each other model, with intervals."""
    gains = {}
    for role, gain in report.gains.items():
        gains[role.words] = gain.accuracy if figure == "accuracy" else gain.nll
    return intervals_chart(f"Gain in {figure} over", gains, [role_class(role) for role in report.gains])


def changes_chart(report: Report, other: Role) -> str:
    """The change of each class's recall from `other` to the candidate; of many classes the largest changes."""
    changes = {row.name: row.change[other] for row in report.by_class if other in row.change}
    largest = sorted(changes, key=lambda name: -abs(changes[name].value or 0.0))[:MANY]
    shown = {name: change for name, change in changes.items() if name in largest}
    return intervals_chart(f"Change of recall from the {other.words}", shown, [""] * len(shown))


def intervals_chart(title: str, figures: Mapping[str, Interval], classes: Sequence[str]) -> str:
    """A line for each name: its figure as a dot and its interval as a bar, beside a line at zero."""
    if not figures:
        return ""
    ends: list[float] = []
    for interval_ in figures.values():
        ends += _known(interval_.value, interval_.low, interval_.high)
    x = svg.spanning([0.0, *ends], NAMES_END + 14, svg.WIDTH - svg.RIGHT)
    bottom = 8 + ROW * len(figures)
    parts = [svg.tag("line", x1=x(0), x2=x(0), y1=4, y2=bottom, class_="zero")]
    for tick in x.ticks(4):
        parts.append(svg.text(f"{tick:+.3g}" if tick else "0", x(tick), bottom + 20, class_="tick centre"))
    for index, ((name, figure), class_) in enumerate(zip(figures.items(), classes, strict=True)):
        value, low, high = _known(figure.value, figure.low, figure.high)
        y = 8 + ROW * (index + 0.5)
        bar = svg.tag("line", x1=x(low), x2=x(high), y1=y, y2=y, class_=f"interval {class_}")
        lines = [name, f"{title.lower()}: {interval(figure, signed)}"]
        parts += [svg.text(_cut(name), NAMES_END, y, class_="tick end middle"), bar]
        parts.append(svg.point("circle", x(value), y, lines, class_ or "role-student", first=index == 0))
    return svg.picture(title, *parts, height=bottom + 34)


def _known(*values: float | None) -> list[float]:
    return [value for value in values if value is not None]


def gate_chart(verdict: Verdict, *, least: bool) -> str:
    """A gate's figure with its interval, and the limit with the side that passes; empty where there is no figure.

    Args:
        verdict: What the gate found.
        least: Whether the figure has to be at least the limit, not at most.
    """
    if verdict.value is None:
        return ""
    ends = _known(verdict.value, verdict.low, verdict.high)
    x = svg.spanning([*ends, verdict.limit], 6, 154, margin=0.1)
    limit = svg.tag("line", x1=x(verdict.limit), x2=x(verdict.limit), y1=2, y2=22, class_="limit")
    bar = svg.tag("line", x1=x(min(ends)), x2=x(max(ends)), y1=12, y2=12, class_="interval")
    dot = svg.mark("circle", x(verdict.value), 12, 5)
    left, right = (x(verdict.limit), 160.0) if least else (0.0, x(verdict.limit))
    side = svg.tag("rect", x=left, y=2, width=right - left, height=20, class_="side")
    return svg.tag("svg", side, limit, bar, dot, viewBox="0 0 160 24", class_="gauge", aria_hidden="true")


def disagreement_chart(members: Sequence[str], shares: Sequence[Sequence[float]]) -> str:
    """How often two members differ in their top class: a square of cells, darker where they differ more."""
    side = min(36.0, 400 / len(members))
    highest = max(max(row) for row in shares) or 1.0
    cells = []
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            title = svg.tag("title", escape(f"{members[i]} and {members[j]}: differ on {percent(share)}"))
            box = {"x": 160 + j * side, "y": i * side, "width": side - 1, "height": side - 1}
            strength = {"fill_opacity": 0.06 + 0.94 * share / highest}
            cells.append(svg.tag("rect", title, **box, **strength, class_="cell"))
        if side >= 14:
            cells.append(svg.text(_cut(members[i], 18), 152, (i + 0.5) * side, class_="tick end middle"))
    return svg.picture("Share of rows on which two members differ", *cells, width=560, height=side * len(members))


def role_class(role: Role) -> str:
    """The class that gives a compared model its colour."""
    return f"role-{role.replace('_', '-')}"


def marks(report: Report) -> list[dict[str, str]]:
    """The legend of the reliability chart."""
    legend = []
    for role in _drawn(report):
        legend.append({"class": role_class(role), "mark": svg.mark(SHAPES[role], 9, 9, 6), "name": role.words})
    return legend


def _bin(role: Role, curve: Reliability, index: int) -> list[str]:
    return [
        role.words,
        f"confidence: {number(curve.confidence[index])}",
        f"accuracy: {number(curve.accuracy[index])}",
        f"rows: {percent(curve.share[index])}",
    ]


def _cut(name: str, longest: int = 24) -> str:
    """Names that differ at their end alone stay different."""
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[1 - longest // 2 :]}"
