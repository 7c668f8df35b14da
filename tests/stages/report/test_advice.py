"""Which to use: a truth table."""

from __future__ import annotations

from typing import Any

import pytest
from rows import a_row
from tiny_chain import FinishedChain

from distillery.ops.metrics import Interval
from distillery.stages.evaluation.record import EvaluationResult, Gain, ModelRow
from distillery.stages.promotion.gates import Verdict
from distillery.stages.promotion.record import Promotion
from distillery.stages.report.advice import Advice, advise
from distillery.stages.roles import Role

SECONDS = {"teachers": 10.0, "logits": 1.0, "search": 100.0, "students": 1000.0, "data": 0.5}
PROMOTED = Promotion(promoted=True, version=1, reasons=[], gates=[], decisions=None)
BEATEN = PROMOTED.model_copy(update={"promoted": False})
FAILED = BEATEN.model_copy(update={"gates": [Verdict("a gate", False, "ece", 1.0, 1.0, 1.0, 0.5)]})


def a_gain(nll: float) -> Gain:
    """A gain in NLL with an interval of .01 to each side."""
    return Gain(accuracy=Interval(0.0, 0.0, 0.0), nll=Interval(nll, nll - 0.01, nll + 0.01))


def model(role: Role, name: str, accuracy: float, nll: float, latency_ms: float | None, **more: Any) -> ModelRow:
    """A model with such figures on val_search, and the same ones as any other on test."""
    return a_row(role, name, val_search_accuracy=accuracy, val_search_nll=nll, latency_ms_p50=latency_ms, **more)


@pytest.fixture
def judged(finished: FinishedChain) -> Any:
    """Makes an evaluation of a candidate and ensembles of such accuracy on val_search and latency."""

    def make(
        small: float = 0.90,
        simple: tuple[float, float | None] = (0.90, 2.0),
        weighted: tuple[float, float | None] | None = (0.91, 4.0),
        gain: float = 0.1,
        small_ms: float = 0.5,
        role: Role = Role.STUDENT,
        baseline: Role = Role.TUNED,
        **of_weighted: Any,
    ) -> EvaluationResult:
        rows = [
            model(Role.TEACHER, "t", 0.99, 0.0, 0.1),
            model(Role.ENSEMBLE, "uniform", *simple[:1], 0.3, simple[1], chosen=weighted is None),
        ]
        if weighted is not None:
            rows.append(model(Role.ENSEMBLE, "convex", weighted[0], 0.2, weighted[1], chosen=True, **of_weighted))
        rows.append(model(Role.STUDENT, "other", 1.0, 0.3, 0.01))
        rows.append(model(role, "s", small, 0.3, small_ms, chosen=True))
        changes = {"rows": rows, "distillation": a_gain(gain), "best_baseline": baseline}
        return finished.evaluated.model_copy(update=changes)

    return make


def advice(evaluation: EvaluationResult, budget: float | None = None, promotion: Promotion = PROMOTED) -> Advice:
    """The advice about an evaluation."""
    weighting = "uniform" if evaluation.ensemble.name == "uniform" else "convex"
    return advise(evaluation, promotion, weighting, SECONDS, budget)


TABLE: list[tuple[str, dict[str, Any], Promotion, float | None, str]] = [
    ("promoted", {}, PROMOTED, None, "student"),
    ("promoted, though less accurate", {"small": 0.8}, PROMOTED, None, "student"),
    ("promoted, a baseline", {"role": Role.TUNED}, PROMOTED, None, "tuned baseline"),
    ("fit, but the champion stays", {}, BEATEN, None, "champion"),
    ("not fit", {"small": 0.99}, FAILED, None, "weighted ensemble"),
    ("not fit, simple average better", {"simple": (0.92, 2.0)}, FAILED, None, "simple average"),
    ("not fit, nothing but the average", {"weighted": None}, FAILED, None, "simple average"),
    ("not fit, all in time", {}, FAILED, 5.0, "weighted ensemble"),
    ("not fit, only the average in time", {}, FAILED, 3.0, "simple average"),
    ("not fit, ensembles too slow", {}, FAILED, 1.0, "none"),
    ("not fit, on the budget", {}, FAILED, 4.0, "weighted ensemble"),
]


@pytest.mark.parametrize(("case", "given", "promotion", "budget", "choice"), TABLE, ids=[row[0] for row in TABLE])
def test_the_choice(
    judged: Any, case: str, given: dict[str, Any], promotion: Promotion, budget: float | None, choice: str
) -> None:
    """golden: never against the decision on promotion; without a champion the better ensemble, if it is in time."""
    found = advice(judged(**given), budget, promotion)
    assert found.choice == choice
    assert all(sentence.endswith(".") for sentence in found.why)


def test_test_rows_choose_nothing(judged: Any) -> None:
    """property: which ensemble is the better one is a matter of val_search, whatever test says."""
    evaluation = judged()
    for better in ("uniform", "convex"):
        rows = []
        for row in evaluation.rows:
            figures = {"accuracy": 1.0, "nll": 0.0} if row.name == better else {"accuracy": 0.1, "nll": 9.0}
            rows.append(row.model_copy(update=figures))
        changed = evaluation.model_copy(update={"rows": rows})
        assert advice(changed, None, FAILED).choice == "weighted ensemble"


@pytest.mark.parametrize("baseline", [Role.TUNED, Role.PLAIN])
@pytest.mark.parametrize(
    ("gain", "words"),
    [(0.1, "Distillation helped, beyond chance"), (-0.1, "Distillation hurt"), (0.005, "did not help beyond chance")],
)
def test_it_says_whether_distillation_helped(judged: Any, gain: float, words: str, baseline: Role) -> None:
    """golden: by the interval of the student's gain over the better of its baselines."""
    first = advice(judged(gain=gain, baseline=baseline)).why[0]
    assert words in first and baseline.words in first and f"{gain:+.4f}" in first
    assert "Teachers were not needed" not in first
    assert "Teachers were not needed: the tuned baseline" in advice(judged(gain=gain, role=Role.TUNED)).why[0]


def test_it_names_who_misses_the_budget(judged: Any) -> None:
    """golden: the late ones by name; what was not measured counts as late."""
    assert "Budget 3 ms: missed by weighted ensemble." in advice(judged(), 3.0).why
    assert "Budget 9 ms: kept by all." in advice(judged(), 9.0).why
    unmeasured = judged(simple=(0.9, None))
    assert "Budget 3 ms: missed by simple average, weighted ensemble." in advice(unmeasured, 3.0).why
    assert not any("Budget" in sentence for sentence in advice(judged()).why)


def test_it_says_what_is_won_and_lost(judged: Any) -> None:
    """golden: speed, in which runtimes, and points of accuracy on both splits, in sentences."""
    assert advice(judged(small=0.91)).why[-1] == (
        "The student is 8 times as fast as the weighted ensemble (both in onnxruntime) at +0.00 points of accuracy on "
        "val_search (+0.00 on test)."
    )
    assert "at -11.00 points of accuracy on val_search (+0.00 on test)" in advice(judged(small=0.8)).why[-1]
    mixed = judged(runtime="onnxruntime and scikit-learn")
    assert "(in onnxruntime against onnxruntime and scikit-learn)" in advice(mixed).why[-1]
    unmeasured = judged(weighted=(0.91, None))
    assert advice(unmeasured).why[-1].startswith("The student is smaller than the weighted ensemble at")


def test_options_say_what_each_costs(judged: Any) -> None:
    """golden: figures, the latency of the row with its runtime, and the training time that each needs."""
    options = advice(judged(small_ms=0.7)).options
    assert list(options) == ["simple average", "weighted ensemble", "student"]
    assert [o.training_seconds for o in options.values()] == [11.0, 11.0, 1111.0]
    assert [o.latency_ms for o in options.values()] == [2.0, 4.0, 0.7]
    assert {o.runtime for o in options.values()} == {"onnxruntime"}
    assert options["student"].val_search_accuracy == 0.9 and options["student"].accuracy == 0.5
    assert options["student"].size_mb == 0.1
    assert list(advice(judged(weighted=None)).options) == ["simple average", "student"]
