"""Where a student differs from others: calibration, classes, groups, and gains with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from distillery.stages.report.page import svg
from distillery.stages.report.page.words import interval, number, percent, signed

MANY = 40  # classes of which only the largest changes are drawn
ROW, NAMES_END = 30, 210  # of a chart of intervals: height of a line, end of the names
ORDER = ("ensemble", "tuned_baseline", "plain_baseline", "student")


def models_of(tree: dict[str, Any]) -> list[str]:
    """Models whose reliability is known, the chosen student last."""
    return [name for name in ORDER if name in tree["reliability"]]


def reliability_chart(tree: dict[str, Any]) -> str:
    """Accuracy against confidence in bins of equal mass; on the diagonal a model is as often right as it says."""
    curves = {name: tree["reliability"][name] for name in models_of(tree) if name != "plain_baseline"}
    low = min(min(min(c["confidence"]), min(c["accuracy"])) for c in curves.values())
    x, y = svg.plane([low, 1.0], [low, 1.0])
    diagonal = svg.path([(x(low), y(low)), (x(1.0), y(1.0))], "diagonal")
    parts = [svg.axes(x, y, "mean confidence", "accuracy"), diagonal]
    for number_, (name, curve) in enumerate(curves.items()):
        places = [(x(c), y(a)) for c, a in zip(curve["confidence"], curve["accuracy"], strict=True)]
        colour = role_class(name)
        parts.append(svg.path(places, f"curve {colour}"))
        for place, at in enumerate(places):
            lines = _bin(name, curve, place)
            parts.append(svg.point(_shape(name), *at, lines, colour, first=number_ == place == 0))
    return svg.picture("Accuracy against confidence on test", *parts)


def gains_chart(tree: dict[str, Any], figure: str) -> str:
    """What the student is better by than each other model, in `figure`, ``accuracy`` or ``nll``, with intervals."""
    found = {k.replace("_", " "): v[figure] for k, v in tree["gains"].items()}
    return intervals_chart(f"Gain in {figure} over", found, [role_class(k) for k in tree["gains"]])


def changes_chart(tree: dict[str, Any], other: str) -> str:
    """The change of each class's recall from `other` to the student, the largest ones where there are many classes."""
    judged = [c for c in tree["by_class"] if other in c["change"]]
    judged.sort(key=lambda c: -abs(c["change"][other]["value"]))
    names = {c["class"] for c in judged[:MANY]}
    found = {c["class"]: c["change"][other] for c in tree["by_class"] if c["class"] in names}
    return intervals_chart(f"Change of recall from the {other.replace('_', ' ')}", found, [""] * len(found))


def intervals_chart(title: str, found: dict[str, dict[str, Any]], classes: Sequence[str]) -> str:
    """A line for each name: its figure as a dot and its interval as a bar, beside a line at zero."""
    if not found:
        return ""
    ends = [v[k] for v in found.values() for k in ("value", "low", "high")]
    x = svg.spanning([0.0, *ends], NAMES_END + 14, svg.WIDTH - svg.RIGHT)
    bottom = 8 + ROW * len(found)
    parts = [svg.tag("line", x1=x(0), x2=x(0), y1=4, y2=bottom, class_="zero")]
    for tick in x.ticks(4):
        parts.append(svg.text(f"{tick:+.3g}" if tick else "0", x(tick), bottom + 20, class_="tick centre"))
    for place, ((name, value), class_) in enumerate(zip(found.items(), classes, strict=True)):
        y = 8 + ROW * (place + 0.5)
        bar = svg.tag("line", x1=x(value["low"]), x2=x(value["high"]), y1=y, y2=y, class_=f"interval {class_}")
        lines = [name, f"{title.lower()}: {interval(value, signed)}"]
        parts += [svg.text(_cut(name), NAMES_END, y, class_="tick end middle"), bar]
        parts.append(svg.point("circle", x(value["value"]), y, lines, class_ or "role-student", first=place == 0))
    return svg.picture(title, *parts, height=bottom + 34)


def gate_chart(gate: dict[str, Any]) -> str:
    """A gate's figure with its interval, and the limit with the side that passes; empty where there is no figure."""
    if gate["value"] is None:
        return ""
    ends = [gate[k] for k in ("value", "low", "high") if gate[k] is not None]
    x = svg.spanning([*ends, gate["limit"]], 6, 154, margin=0.1)
    limit = svg.tag("line", x1=x(gate["limit"]), x2=x(gate["limit"]), y1=2, y2=22, class_="limit")
    bar = svg.tag("line", x1=x(min(ends)), x2=x(max(ends)), y1=12, y2=12, class_="interval")
    dot = svg.mark("circle", x(gate["value"]), 12, 5)
    left, right = (x(gate["limit"]), 160.0) if gate["least"] else (0.0, x(gate["limit"]))
    side = svg.tag("rect", x=left, y=2, width=right - left, height=20, class_="side")
    return svg.tag("svg", side, limit, bar, dot, viewBox="0 0 160 24", class_="gauge", aria_hidden="true")


def disagreement_chart(members: Sequence[str], shares: Sequence[Sequence[float]]) -> str:
    """How often two members differ in their top class: a square of cells, darker where they differ more."""
    side = min(36.0, 400 / len(members))
    highest = max(max(row) for row in shares) or 1.0
    cells = []
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            told = svg.tag("title", escape(f"{members[i]} and {members[j]}: differ on {percent(share)}"))
            box = {"x": 160 + j * side, "y": i * side, "width": side - 1, "height": side - 1}
            strength = {"fill_opacity": 0.06 + 0.94 * share / highest}
            cells.append(svg.tag("rect", told, **box, **strength, class_="cell"))
        if side >= 14:
            cells.append(svg.text(_cut(members[i], 18), 152, (i + 0.5) * side, class_="tick end middle"))
    return svg.picture("Share of rows on which two members differ", *cells, width=560, height=side * len(members))


def role_class(name: str) -> str:
    """The class that gives a compared model its colour."""
    return f"role-{name.replace('_', '-')}"


def marks(tree: dict[str, Any]) -> list[dict[str, str]]:
    """The legend of the reliability chart."""
    names = [name for name in models_of(tree) if name != "plain_baseline"]
    return [{"class": role_class(n), "mark": svg.mark(_shape(n), 9, 9, 6), "name": n.replace("_", " ")} for n in names]


def _bin(name: str, curve: dict[str, list[float]], place: int) -> list[str]:
    told = (f"{k}: {number(curve[k][place])}" for k in ("confidence", "accuracy"))
    return [name.replace("_", " "), *told, f"rows: {percent(curve['share'][place])}"]


def _shape(name: str) -> str:
    return {"ensemble": "diamond", "tuned_baseline": "square", "plain_baseline": "up", "student": "circle"}[name]


def _cut(name: str, longest: int = 24) -> str:
    """Names that differ at their end alone stay different."""
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[1 - longest // 2 :]}"
