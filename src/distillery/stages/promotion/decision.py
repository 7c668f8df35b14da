"""Whether a student may become the champion: a pure function of measured figures, so that it can be checked by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from distillery.config.gates import Gate
from distillery.ops.metrics import Interval, paired_difference, paired_share_difference
from distillery.stages.promotion.gates import Verdict, judge
from distillery.stages.promotion.remedies import remedies

EQUAL_NLL = 0.01  # that a cheaper model may lose against the champion
EQUAL_ACCURACY = 0.01
FEWER_PARAMS = 0.9


@dataclass(frozen=True)
class Decision:
    """The verdict, every reason for it, and what each gate found."""

    promoted: bool
    reasons: list[str]
    gates: list[Verdict] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What a model did on the test rows: NLL [N] and correctness [N] of each row; `params` where they are known."""

    name: str
    nll: np.ndarray
    correct: np.ndarray
    params: int | None = None


def decide(
    gates: tuple[Gate, ...],
    figures: dict[str, Interval],
    student: Outcome,
    champion: Outcome | None,
    *,
    resamples: int,
    confidence: float,
) -> Decision:
    """Promotes a model that fails no gate and may take the place of the champion, if there is one.

    It takes the champion's place where it is better, or where it is shown to be as good and costs less; see `_beats`.
    """
    verdicts = judge(gates, figures)
    reasons = [f"{_word(verdict.passed)} {verdict.text}" for verdict in verdicts]
    reasons += remedies(gates, verdicts, len(student.nll))
    passed = all(v.passed is not False for v in verdicts)
    if champion is None:
        reasons.append("there is no champion yet")
        return Decision(passed, reasons, verdicts)
    better, text = _beats(student, champion, resamples=resamples, confidence=confidence)
    return Decision(passed and better, [*reasons, text], verdicts)


def _word(passed: bool | None) -> str:
    return {True: "passed", False: "FAILED", None: "open"}[passed]


def _beats(student: Outcome, rival: Outcome, *, resamples: int, confidence: float) -> tuple[bool, str]:
    """Whether a model may take the champion's place, and why; both answered the same rows.

    Better: a lower NLL beyond chance and no lower accuracy. As good: the lower ends of the intervals of both gains are
    within `EQUAL_NLL` and `EQUAL_ACCURACY`, at `FEWER_PARAMS` of the parameters or less.
    """
    gain = paired_difference(rival.nll, student.nll, resamples=resamples, confidence=confidence)
    accuracy = paired_share_difference(student.correct, rival.correct, confidence=confidence)
    assert gain.value is not None and gain.low is not None
    assert accuracy.value is not None and accuracy.low is not None
    is_better = gain.low > 0 and accuracy.value >= 0
    is_as_good = gain.low >= -EQUAL_NLL and accuracy.low >= -EQUAL_ACCURACY
    is_smaller = (
        student.params is not None and rival.params is not None and student.params <= FEWER_PARAMS * rival.params
    )

    if is_better:
        verdict = f"beats {rival.name}"
    elif is_as_good and is_smaller:
        verdict = f"is as good as {rival.name} with {student.params:,} parameters in place of {rival.params:,}"
    else:
        verdict = f"does not beat {rival.name}"
    chance = "" if gain.low > 0 or gain.value <= 0 else ", which may be chance"
    return is_better or (is_as_good and is_smaller), (
        f"{verdict}: NLL gain {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]{chance}, "
        f"accuracy {100 * accuracy.value:+.2f} points on {len(student.nll)} test rows"
    )
