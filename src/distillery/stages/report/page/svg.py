"""Pieces of an inline SVG: tags, scales, ticks and axes. All lengths are in the units of the picture's own width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 400
MARK = 6.5  # half the width of a mark
LEFT, RIGHT, TOP, BOTTOM = 100, 18, 28, 62


def tag(name: str, *inside: str, **attributes: str | float | None) -> str:
    """An element. Attributes are escaped, `inside` is taken as it is; ``class_`` is ``class``, ``x_y`` is ``x-y``."""
    pairs = ((k.rstrip("_").replace("_", "-"), v) for k, v in attributes.items() if v is not None)
    shown = "".join(f' {k}="{escape(_short(v))}"' for k, v in pairs)
    return f"<{name}{shown}>{''.join(inside)}</{name}>"


def text(words: str, x: float, y: float, **attributes: str | float | None) -> str:
    """Words at a place."""
    return tag("text", escape(words), x=x, y=y, **attributes)


@dataclass(frozen=True)
class Scale:
    """From values `low` to `high` to places `start` to `stop`; ticks at whole numbers alone if they are `whole`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False
    whole: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.stop - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the range: of a log scale 1, 2 and 5 of each decade, or fewer where it is long."""
        if not self.log:
            steps = _round_steps(self.low, self.high, count)
            return [s for s in steps if s == round(s)] if self.whole else steps
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            ticks = [d * 10.0**e for e in decades for d in digits if self.low <= d * 10.0**e <= self.high]
            if len(ticks) <= count + 1:
                break
        return ticks if len(ticks) > 1 else _round_steps(self.low, self.high, count)


def spanning(values: Sequence[float], start: float, stop: float, *, log: bool = False, margin: float = 0.06) -> Scale:
    """A scale that shows all values with some room around them."""
    low, high = min(values), max(values)
    if log:
        room = max(math.log10(high / low) * margin, 0.05)
        return Scale(low / 10**room, high * 10**room, start, stop, log=True)
    room = (high - low) * margin or abs(high) * margin or 1.0
    return Scale(low - room, high + room, start, stop)


def axes(x: Scale, y: Scale, x_name: str, y_name: str, written: Callable[[float], str] = lambda v: f"{v:.4g}") -> str:
    """Grid, ticks and names of both axes."""
    parts = []
    for value in y.ticks(7):
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(value), y2=y(value), class_="grid"))
        parts.append(text(written(value), LEFT - 8, y(value), class_="tick end middle"))
    for value in x.ticks():
        parts.append(tag("line", x1=x(value), x2=x(value), y1=TOP, y2=HEIGHT - BOTTOM, class_="grid"))
        parts.append(text(compact(value), x(value), HEIGHT - BOTTOM + 22, class_="tick centre"))
    parts.append(text(x_name, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, class_="axis centre"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(text(y_name, 0, 0, class_="axis centre", transform=f"translate(14 {middle:g}) rotate(-90)"))
    return "".join(parts)


def plane(x: Sequence[float], y: Sequence[float], *, log_x: bool = False) -> tuple[Scale, Scale]:
    """Scales of both axes that show all points of a picture of the usual size."""
    across = spanning(x, LEFT, WIDTH - RIGHT, log=log_x)
    return across, spanning(y, HEIGHT - BOTTOM, TOP)


def picture(name: str, *inside: str, height: float = HEIGHT, width: float = WIDTH) -> str:
    """A whole SVG, with a name for those who cannot see it."""
    return tag("svg", *inside, viewBox=f"0 0 {width:g} {height:g}", role="group", aria_label=name, class_="chart")


def point(shape: str, x: float, y: float, lines: Sequence[str], class_: str, *, first: bool, size: float = MARK) -> str:
    """A mark that tells its lines when it is pointed at or focused; of a picture's points the first is a tab stop."""
    title = tag("title", escape("\n".join(lines)))
    reach = tag("circle", cx=x, cy=y, r=13, class_="reach")
    seat = "0" if first else "-1"
    label = "; ".join(lines)
    inside = (title, reach, mark(shape, x, y, size))
    return tag("g", *inside, class_=f"point {class_}", tabindex=seat, role="img", aria_label=label)


def mark(shape: str, x: float, y: float, size: float = MARK) -> str:
    """A filled mark around a place."""
    if shape == "circle":
        return tag("circle", cx=x, cy=y, r=size)
    outlines: dict[str, Sequence[tuple[float, float]]] = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        "up": ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
        "down": ((0, 1.2), (1.15, -0.9), (-1.15, -0.9)),
        "cross": ((-1, -0.6), (-0.6, -1), (0, -0.4), (0.6, -1), (1, -0.6), (0.4, 0), (1, 0.6), (0.6, 1), (0, 0.4),
                  (-0.6, 1), (-1, 0.6), (-0.4, 0)),
    }  # fmt: skip
    return tag("polygon", points=" ".join(f"{x + size * a:.2f},{y + size * b:.2f}" for a, b in outlines[shape]))


def path(points: Sequence[tuple[float, float]], class_: str) -> str:
    """A line through points."""
    return tag("polyline", points=" ".join(f"{a:.2f},{b:.2f}" for a, b in points), class_=class_)


def compact(value: float) -> str:
    """A number in few signs: 20k, 1.5M, 0.05."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def _round_steps(low: float, high: float, count: int) -> list[float]:
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(value: str | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
