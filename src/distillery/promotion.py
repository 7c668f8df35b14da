"""Whether a student may become the champion: a pure function of per-row figures, so that it can be checked by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distillery.metrics import paired_difference


@dataclass(frozen=True)
class Decision:
    """The verdict and every reason for it."""

    promoted: bool
    reasons: list[str]


@dataclass(frozen=True)
class Outcome:
    """What a model did on the test rows: NLL [N] and correctness [N] of each row."""

    name: str
    nll: np.ndarray
    correct: np.ndarray


def decide(
    student: Outcome, baseline: Outcome, champion: Outcome | None, *, resamples: int, confidence: float
) -> Decision:
    """Promoted only if the student beats its own baseline and the reigning champion, all on the same test rows.

    "Beats" means: the lower bound of the NLL gain (paired bootstrap over rows) is above zero, and the accuracy is not
    lower.
    """
    verdicts = [_beats(student, rival, resamples, confidence) for rival in (baseline, champion) if rival is not None]
    if champion is None:
        verdicts.append((True, "there is no champion yet"))
    return Decision(all(passed for passed, _ in verdicts), [text for _, text in verdicts])


def _beats(student: Outcome, rival: Outcome, resamples: int, confidence: float) -> tuple[bool, str]:
    gain = paired_difference(rival.nll, student.nll, resamples=resamples, confidence=confidence)
    accuracy = float(student.correct.mean() - rival.correct.mean())
    assert gain.low is not None
    passed = gain.low > 0 and accuracy >= 0
    return passed, (
        f"{'beats' if passed else 'does not beat'} {rival.name}: NLL gain {gain.value:+.4f} "
        f"[{gain.low:+.4f}, {gain.high:+.4f}], accuracy {100 * accuracy:+.2f} points on {len(student.nll)} test rows"
    )
