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
    least = gate.at_least is not None
    limit = gate.at_least if gate.at_least is not None else gate.at_most
    assert limit is not None
    number = getattr(found, gate.bound)
    name = gate.figure.replace("_", " ") + {"value": "", "low": ", lower bound", "high": ", upper bound"}[gate.bound]
    wanted = f"{name}: expected {'at least' if least else 'at most'} {limit:g}"
    if number is None:
        return Verdict(f"{wanted}, not judged: {found.note}", None, gate.figure, None, None, None, limit)
    passed = number >= limit if least else number <= limit
    return Verdict(f"{wanted}, got {_shown(found)}", passed, gate.figure, found.value, found.low, found.high, limit)


def _shown(found: Interval) -> str:
    ends = "" if found.low is None or found.low == found.high else f" [{found.low:.4g}, {found.high:.4g}]"
    return f"{found.value:.4g}{ends}" + (f", {found.note}" if found.note else "")
