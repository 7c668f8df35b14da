"""Whether a student may become the champion: a pure function of measured figures, so that it can be checked by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from distillery.config.gates import Gate
from distillery.ops.metrics import Interval, paired_difference
from distillery.stages.promotion.gates import Verdict, judge


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
