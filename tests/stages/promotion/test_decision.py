"""Promotion: a truth table of gates and champions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distillery.config.gates import SHIP_GATES, Gate
from distillery.ops.metrics import Interval
from distillery.stages.promotion.decision import Decision, Outcome, decide

GENERATOR = np.random.default_rng(0)
NOISE = GENERATOR.normal(0, 0.05, 400)
NLL = GENERATOR.exponential(0.5, 400)
BETTER, SAME, WORSE = -0.1 + NOISE, NOISE - NOISE.mean(), 0.1 + NOISE
RIGHT = np.repeat([1.0, 0.0], [300, 100])

GATES = (Gate(figure="accuracy", at_least=0.7), Gate(figure="recovery", at_least=0.8))
GOOD = {"accuracy": Interval(0.75, 0.75, 0.75), "recovery": Interval(0.9, 0.8, 1.0)}
BAD = {**GOOD, "recovery": Interval(0.5, 0.4, 0.6)}
OPEN = {**GOOD, "recovery": Interval(None, None, None, "gap not significant")}


def outcome(name: str, worse_by: np.ndarray | float = 0.0, fewer: int = 0) -> Outcome:
    """Rows with an NLL that much higher, and that many right answers less."""
    correct = RIGHT.copy()
    correct[: max(0, fewer)] = 0.0
    correct[len(correct) + min(0, fewer) :] = 1.0
    return Outcome(name, NLL + worse_by, correct)


def verdict(figures: dict[str, Interval], champion: Outcome | None, gates: tuple[Gate, ...] = GATES) -> Decision:
    """Whether a student of average NLL and 300 right answers is promoted."""
    return decide(gates, figures, outcome("student"), champion, resamples=500, confidence=0.95)


WEAK, EVEN, STRONG = outcome("weak", WORSE), outcome("even", SAME), outcome("strong", BETTER)
LUCKY = outcome("lucky", WORSE, fewer=-5)

TABLE = [
    ("good", None, True),
    ("bad", None, False),
    ("open", None, True),
    ("good", WEAK, True),
    ("bad", WEAK, False),
    ("open", WEAK, True),
    ("good", EVEN, False),
    ("good", STRONG, False),
    ("good", LUCKY, False),
    ("bad", STRONG, False),
    ("good", outcome("itself"), False),
]


@pytest.mark.parametrize(
    ("figures", "champion", "promoted"), TABLE, ids=lambda v: v.name if isinstance(v, Outcome) else str(v)
)
def test_gates_and_champion_must_both_be_passed(figures: str, champion: Outcome | None, promoted: bool) -> None:
    """golden: no gate failed, and lower NLL beyond chance and no lower accuracy than the champion."""
    found = verdict({"good": GOOD, "bad": BAD, "open": OPEN}[figures], champion)
    assert found.promoted == promoted
    assert len(found.reasons) == 3 + (figures == "bad")
    word = {"good": "passed", "bad": "FAILED", "open": "open"}[figures]
    assert found.reasons[0].startswith("passed accuracy: ") and found.reasons[1].startswith(f"{word} recovery: ")
    if champion is None:
        assert found.reasons[-1] == "there is no champion yet"
    else:
        assert f"beat {champion.name}:" in found.reasons[-1] or f"beats {champion.name}:" in found.reasons[-1]


SMALLER: list[tuple[int | None, np.ndarray | float, int, bool]] = [
    (90, 0.0, 0, True),
    (91, 0.0, 0, False),
    (None, 0.0, 0, False),
    (10, -0.02, 0, False),
    (10, 0.0, -40, False),
]


@pytest.mark.parametrize(("params", "worse_by", "fewer", "promoted"), SMALLER)
def test_as_good_and_smaller_takes_the_place(
    params: int | None, worse_by: np.ndarray | float, fewer: int, promoted: bool
) -> None:
    """golden: nine tenths of the champion's 100 parameters or less, where both are shown to be as good."""
    champion = replace(outcome("champion", worse_by, fewer), params=100)
    candidate = replace(outcome("student"), params=params)
    found = decide((), {}, candidate, champion, resamples=500, confidence=0.95)
    assert found.promoted is promoted
    if promoted:
        assert "is as good as champion with 90 parameters in place of 100" in found.reasons[-1]


def test_without_gates_the_champion_alone_decides() -> None:
    """golden: an empty list blocks nothing, and no figure passes every gate that is never defined."""
    assert verdict({}, None, ()) == Decision(True, ["there is no champion yet"], [])
    assert not verdict({}, STRONG, ()).promoted
    found = verdict({}, None, SHIP_GATES)
    assert found.promoted and all(text.startswith("open ") for text in found.reasons[:-1])
    assert [v.passed for v in found.gates] == [None] * len(SHIP_GATES)


def test_the_verdicts_are_kept() -> None:
    """golden: what each gate found stands beside the reasons, in the order of the gates."""
    found = verdict(BAD, None)
    assert [(v.figure, v.passed, v.value) for v in found.gates] == [("accuracy", True, 0.75), ("recovery", False, 0.5)]
    assert [v.text for v in found.gates] == [text.split(" ", 1)[1] for text in found.reasons[:2]]


def test_every_reason_has_its_figures() -> None:
    """golden: the gain, its interval, the accuracy and the number of rows, in words that can be read alone."""
    found = verdict(GOOD, LUCKY)
    assert found.reasons[2].startswith("does not beat lucky: NLL gain +0.0")
    assert found.reasons[2].endswith("accuracy -1.25 points on 400 test rows")
    assert verdict(GOOD, WEAK).reasons[2].startswith("beats weak: NLL gain +0.")
    slight = outcome("slight", 0.001 + 10 * SAME)
    assert "which may be chance" in verdict(GOOD, slight).reasons[2]
    assert "chance" not in verdict(GOOD, WEAK).reasons[2] + verdict(GOOD, STRONG).reasons[2]


def test_the_same_figures_give_the_same_verdict() -> None:
    """determinism: the bootstrap has a fixed seed."""
    assert verdict(GOOD, EVEN) == verdict(GOOD, EVEN)
