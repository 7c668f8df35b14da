"""Holds the figures of the test rows against the gates of the config."""

from __future__ import annotations

from dataclasses import dataclass

from distillery.config.gates import Gate
from distillery.ops.metrics import Interval


@dataclass(frozen=True)
class Verdict:
    """What one gate found. `passed` is None where the figure is not defined, which does not block."""

    text: str
    passed: bool | None
    figure: str
    value: float | None
    low: float | None
    high: float | None
    limit: float


def judge(gates: tuple[Gate, ...], figures: dict[str, Interval]) -> list[Verdict]:
    """One verdict per gate.

    Args:
        gates: The list of the config.
        figures: What was measured, by the names in `FIGURES`; one that is missing was not measured.
    """
    return [_judge(gate, figures.get(gate.figure, Interval(None, None, None, "not measured"))) for gate in gates]


def _judge(gate: Gate, found: Interval) -> Verdict:
    is_least = gate.at_least is not None
    limit = gate.at_least if gate.at_least is not None else gate.at_most
    assert limit is not None
    name = gate.figure.replace("_", " ") + {"value": "", "low": ", lower bound", "high": ", upper bound"}[gate.bound]
    wanted = f"{name}: expected {'at least' if is_least else 'at most'} {limit:g}"
    if gate.beyond_chance:
        wanted += " unless by chance"
    judged: float | None = getattr(found, gate.bound)
    if judged is None or found.value is None:
        return Verdict(f"{wanted}, not judged: {found.note}", None, gate.figure, None, None, None, limit)

    passed = judged >= limit if is_least else judged <= limit
    if not passed and gate.beyond_chance:
        passed = _may_be_chance(found, is_least)
    text = f"{wanted}, got {_shown(found, judged)}"
    return Verdict(text, passed, gate.figure, found.value, found.low, found.high, limit)


def _may_be_chance(found: Interval, is_least: bool) -> bool:
    """Whether the interval of a figure that misses its limit reaches to 0, where nothing is worse."""
    end = found.high if is_least else found.low
    if end is None or found.low == found.high:
        return False
    return end >= 0 if is_least else end <= 0


def _shown(found: Interval, judged: float) -> str:
    """The number that is judged, and the figure with its interval where that says more."""
    note = f", {found.note}" if found.note else ""
    if found.low is None or found.low == found.high:
        return f"{judged:.4g}{note}"
    ends = f"[{found.low:.4g}, {found.high:.4g}]"
    if judged == found.value:
        return f"{judged:.4g} {ends}{note}"
    return f"{judged:.4g} of {found.value:.4g} {ends}{note}"
