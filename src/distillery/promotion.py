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

    To beat the baseline: lower NLL and no lower accuracy; whether the gain may be chance is said in the reason. To
    replace a champion the NLL gain must be beyond chance: its lower bound (paired bootstrap over rows) above zero.
    """
    settings = {"resamples": resamples, "confidence": confidence}
    verdicts = [_beats(student, baseline, beyond_chance=False, **settings)]  # type: ignore[arg-type]
    if champion is not None:
        verdicts.append(_beats(student, champion, beyond_chance=True, **settings))  # type: ignore[arg-type]
    else:
        verdicts.append((True, "there is no champion yet"))
    return Decision(all(passed for passed, _ in verdicts), [text for _, text in verdicts])


def _beats(
    student: Outcome, rival: Outcome, *, beyond_chance: bool, resamples: int, confidence: float
) -> tuple[bool, str]:
    gain = paired_difference(rival.nll, student.nll, resamples=resamples, confidence=confidence)
    accuracy = float(student.correct.mean() - rival.correct.mean())
    assert gain.value is not None and gain.low is not None
    passed = (gain.low if beyond_chance else gain.value) > 0 and accuracy >= 0
    chance = "" if gain.low > 0 or gain.value <= 0 else ", which may be chance"
    return passed, (
        f"{'beats' if passed else 'does not beat'} {rival.name}: NLL gain {gain.value:+.4f} "
        f"[{gain.low:+.4f}, {gain.high:+.4f}]{chance}, accuracy {100 * accuracy:+.2f} points "
        f"on {len(student.nll)} test rows"
    )
