"""Promotion: a truth table."""

from __future__ import annotations

import numpy as np
import pytest

from distillery.promotion import Decision, Outcome, decide

GENERATOR = np.random.default_rng(0)
NOISE = GENERATOR.normal(0, 0.05, 400)
NLL = GENERATOR.exponential(0.5, 400)
BETTER, SAME, WORSE = -0.1 + NOISE, NOISE - NOISE.mean(), 0.1 + NOISE
RIGHT = np.repeat([1.0, 0.0], [300, 100])


def outcome(name: str, worse_by: np.ndarray | float = 0.0, fewer: int = 0) -> Outcome:
    """Rows with an NLL that much higher, and that many right answers less."""
    correct = RIGHT.copy()
    correct[: max(0, fewer)] = 0.0
    correct[len(correct) + min(0, fewer) :] = 1.0
    return Outcome(name, NLL + worse_by, correct)


def verdict(baseline: Outcome, champion: Outcome | None) -> Decision:
    """Whether a student of average NLL and 300 right answers is promoted over these."""
    return decide(outcome("student"), baseline, champion, resamples=500, confidence=0.95)


WEAK, EVEN, STRONG = outcome("weak", WORSE), outcome("even", SAME), outcome("strong", BETTER)
LUCKY = outcome("lucky", WORSE, fewer=-5)

TABLE = [
    (WEAK, None, True),
    (EVEN, None, False),
    (STRONG, None, False),
    (LUCKY, None, False),
    (WEAK, WEAK, True),
    (WEAK, EVEN, False),
    (WEAK, STRONG, False),
    (WEAK, LUCKY, False),
    (EVEN, WEAK, False),
    (STRONG, WEAK, False),
    (outcome("itself"), None, False),
    (WEAK, outcome("itself"), False),
]


@pytest.mark.parametrize(
    ("baseline", "champion", "promoted"), TABLE, ids=lambda v: v.name if isinstance(v, Outcome) else str(v)
)
def test_only_a_better_student_is_promoted(baseline: Outcome, champion: Outcome | None, promoted: bool) -> None:
    """golden: lower NLL and no lower accuracy than the baseline, and beyond chance than the champion."""
    found = verdict(baseline, champion)
    assert found.promoted == promoted
    assert len(found.reasons) == 2
    rivals = [baseline.name, *([champion.name] if champion else [])]
    assert all(
        f"beat {name}:" in text or f"beats {name}:" in text for name, text in zip(rivals, found.reasons, strict=False)
    )


def test_every_reason_has_its_figures() -> None:
    """golden: the gain, its interval, the accuracy and the number of rows, in words that can be read alone."""
    found = verdict(LUCKY, None)
    assert found.reasons[0].startswith("does not beat lucky: NLL gain +0.0")
    assert found.reasons[0].endswith("accuracy -1.25 points on 400 test rows")
    assert found.reasons[1] == "there is no champion yet"
    assert verdict(WEAK, None).reasons[0].startswith("beats weak: NLL gain +0.")


def test_the_same_figures_give_the_same_verdict() -> None:
    """determinism: the bootstrap has a fixed seed."""
    assert verdict(WEAK, EVEN) == verdict(WEAK, EVEN)
