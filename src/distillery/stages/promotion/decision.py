"""Whether a student may become the champion: a pure function of measured figures, so that it can be checked by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from distillery.config.gates import Gate
from distillery.ops.metrics import Interval, paired_difference
from distillery.stages.promotion.gates import Verdict, judge

OF_STUDENT = ("accuracy", "nll", "ece", "agreement", "params", "latency_ms_p50", "latency_ms_p95")
OF_EXPORT = {
    "parity": "parity",
    "size_mb": "onnx_mb",
    "request_ms_p50": "request_ms_p50",
    "request_ms_p95": "request_ms_p95",
}


@dataclass(frozen=True)
class Decision:
    """The verdict, every reason for it, and what each gate found."""

    promoted: bool
    reasons: list[str]
    gates: list[Verdict] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What a model did on the test rows: NLL [N] and correctness [N] of each row."""

    name: str
    nll: np.ndarray
    correct: np.ndarray


def gate_figures(evaluation: dict[str, Any], exported: dict[str, Any]) -> dict[str, Interval]:
    """Every figure that a gate may name.

    Args:
        evaluation: The content of stage `evaluation`.
        exported: The metrics of stage `export`.
    """
    found: dict[str, Interval] = {}
    for other, pair in evaluation["gains"].items():
        found |= {f"{k}_gain_over_{other}": Interval(**v) for k, v in pair.items()}
    recovery = {k: Interval(**v) for k, v in evaluation["gap_recovery"].get("tuned", {}).items()}
    found |= {f"{k}_recovery": v for k, v in recovery.items()}
    if recovery:
        found["recovery"] = _recovery(recovery)
    student = next(r for r in evaluation["rows"] if r["role"] == "student" and r["chosen"])
    whole = next(r for r in evaluation["rows"] if f"{r['role']} {r['name']}" == evaluation["ensemble"])
    numbers = {k: student[k] for k in OF_STUDENT}
    numbers |= {"ece_over_ensemble": student["ece"] - whole["ece"]}
    numbers |= {name: exported[key] for name, key in OF_EXPORT.items()}
    found |= {k: Interval(v, v, v) for k, v in numbers.items()}
    found["worst_class_drop"] = Interval(**evaluation["worst_class_drop"])
    found["worst_group_drop"] = Interval(
        **evaluation["groups"].get("worst", {"value": None, "low": None, "high": None, "note": "no groups declared"})
    )
    disturbed = [(r["disturbance"], r["beyond_ensemble"]) for r in evaluation["robustness"]]
    if disturbed:
        name, worst = max(disturbed, key=lambda pair: pair[1]["value"])
        found["robustness_drop"] = Interval(**{**worst, "note": name})
    return found


def _recovery(found: dict[str, Interval]) -> Interval:
    """Gap recovery in NLL, or in accuracy where only that has a gap: never the better of both, which chance favours."""
    if found["nll"].value is None and found["accuracy"].value is not None:
        return replace(found["accuracy"], note="in accuracy, as NLL has no gap")
    return found["nll"] if found["nll"].value is None else replace(found["nll"], note="in NLL")


def decide(
    gates: tuple[Gate, ...],
    figures: dict[str, Interval],
    student: Outcome,
    champion: Outcome | None,
    *,
    resamples: int,
    confidence: float,
) -> Decision:
    """Promoted only if no gate is failed and the student beats the reigning champion on the same test rows.

    To replace a champion the NLL gain must be beyond chance: its lower bound (paired bootstrap over rows) above zero.
    """
    verdicts = judge(gates, figures)
    reasons = [f"{_word(v.passed)} {v.text}" for v in verdicts]
    passed = all(v.passed is not False for v in verdicts)
    if champion is None:
        reasons.append("there is no champion yet")
        return Decision(passed, reasons, verdicts)
    better, text = _beats(student, champion, resamples=resamples, confidence=confidence)
    return Decision(passed and better, [*reasons, text], verdicts)


def _word(passed: bool | None) -> str:
    return {True: "passed", False: "FAILED", None: "open"}[passed]


def _beats(student: Outcome, rival: Outcome, *, resamples: int, confidence: float) -> tuple[bool, str]:
    gain = paired_difference(rival.nll, student.nll, resamples=resamples, confidence=confidence)
    accuracy = float(student.correct.mean() - rival.correct.mean())
    assert gain.value is not None and gain.low is not None
    passed = gain.low > 0 and accuracy >= 0
    chance = "" if gain.low > 0 or gain.value <= 0 else ", which may be chance"
    return passed, (
        f"{'beats' if passed else 'does not beat'} {rival.name}: NLL gain {gain.value:+.4f} "
        f"[{gain.low:+.4f}, {gain.high:+.4f}]{chance}, accuracy {100 * accuracy:+.2f} points "
        f"on {len(student.nll)} test rows"
    )
