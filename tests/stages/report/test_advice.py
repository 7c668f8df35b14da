"""Which to use: a truth table."""

from __future__ import annotations

from typing import Any

import pytest

from distillery.stages.report.advice import MARGIN, advise


def interval(value: float, spread: float = 0.01) -> dict[str, Any]:
    """An interval of that width to each side."""
    return {"value": value, "low": value - spread, "high": value + spread, "note": ""}


def row(role: str, name: str, accuracy: float, nll: float, latency_ms: float, size_mb: float) -> dict[str, Any]:
    """A model with such figures on val_search, and the same ones as any other on test."""
    on_val = {"val_search_accuracy": accuracy, "val_search_nll": nll}
    on_test = {"accuracy": 0.5, "nll": 0.7}
    costs = {"latency_ms_p50": latency_ms, "runtime": "onnxruntime", "size_mb": size_mb}
    return {"role": role, "name": name, **on_val, **on_test, **costs}


def told(
    student: float = 0.90,
    simple: tuple[float, float] = (0.90, 2.0),
    weighted: tuple[float, float] | None = (0.91, 4.0),
    gain: float = 0.1,
    student_ms: float = 0.5,
) -> dict[str, Any]:
    """A report of a student and ensembles of such accuracy on val_search and latency; on test all are alike."""
    rows = [
        row("teacher", "t", 0.99, 0.0, 0.1, size_mb=9.0),
        row("ensemble", "uniform", simple[0], 0.3, simple[1], size_mb=4.0),
    ]
    if weighted is not None:
        rows.append(row("ensemble", "convex", weighted[0], 0.2, weighted[1], size_mb=4.0))
    rows.append(row("student", "other", 1.0, 0.3, 0.0, size_mb=0.1) | {"chosen": False})
    rows.append(row("student", "s", student, 0.3, student_ms, size_mb=0.1) | {"chosen": True})
    return {
        "rows": rows,
        "weights": {"weighting": "uniform" if weighted is None else "convex"},
        "seconds": {"teachers": 10.0, "logits": 1.0, "search": 100.0, "students": 1000.0, "data": 0.5},
        "gains": {"tuned_baseline": {"nll": interval(gain)}, "plain_baseline": {"nll": interval(-9.0)}},
    }


TABLE: list[tuple[str, dict[str, Any], float | None, str]] = [
    ("as good", {"student": 0.91}, None, "student"),
    ("better", {"student": 0.95}, None, "student"),
    ("within the margin", {"student": 0.91 - 0.8 * MARGIN}, None, "student"),
    ("clearly worse, no budget", {"student": 0.91 - 1.2 * MARGIN}, None, "weighted ensemble"),
    ("clearly worse, simple average better", {"student": 0.8, "simple": (0.92, 2.0)}, None, "simple average"),
    ("clearly worse, nothing but the average", {"student": 0.8, "weighted": None}, None, "simple average"),
    ("clearly worse, all in time", {"student": 0.8}, 5.0, "weighted ensemble"),
    ("ensembles too slow", {"student": 0.8}, 1.0, "student"),
    ("all too slow", {"student": 0.8}, 0.1, "none"),
    ("as good, all too slow", {"student": 0.91}, 0.1, "none"),
    ("student too slow", {"student": 0.8, "student_ms": 1.5}, 1.0, "none"),
    ("only the average in time", {"student": 0.8}, 3.0, "simple average"),
    ("as good as the average in time", {"student": 0.9}, 3.0, "student"),
    ("only the average in time, student too slow", {"student": 0.91, "student_ms": 5.0}, 3.0, "simple average"),
    ("on the budget", {"student": 0.8}, 4.0, "weighted ensemble"),
]


@pytest.mark.parametrize(("case", "given", "budget", "choice"), TABLE, ids=[row[0] for row in TABLE])
def test_the_choice(case: str, given: dict[str, Any], budget: float | None, choice: str) -> None:
    """golden: on val_search, as good is the student; clearly worse the better ensemble, if it keeps the budget."""
    found = advise(told(**given), budget)
    assert found["choice"] == choice
    assert all(sentence.endswith(".") for sentence in found["why"])


def test_test_rows_choose_nothing() -> None:
    """property: where test and val_search disagree, the choice is the one of val_search, whatever test says."""
    report = told(student=0.91)
    expected = advise(report, None)["choice"]
    for better in ("uniform", "convex"):
        for found in report["rows"]:
            found["accuracy"], found["nll"] = (1.0, 0.0) if found["name"] == better else (0.1, 9.0)
        assert advise(report, None)["choice"] == expected == "student"
    report = told(student=0.8)
    report["rows"][-1] |= {"accuracy": 1.0, "nll": 0.0}
    assert advise(report, None)["choice"] == "weighted ensemble"


@pytest.mark.parametrize(
    ("gain", "words"),
    [(0.1, "Distillation helped: beyond chance"), (-0.1, "Distillation hurt"), (0.005, "did not help beyond chance")],
)
def test_it_says_whether_distillation_helped(gain: float, words: str) -> None:
    """golden: by the interval of the gain over the tuned baseline, or over the plain one where that is all there is."""
    report = told(gain=gain)
    first = advise(report, None)["why"][0]
    assert words in first and "tuned baseline" in first and f"{abs(gain):.4f}" in first
    report["gains"] = {"plain_baseline": {"nll": interval(gain)}}
    assert words in advise(report, None)["why"][0] and "plain baseline" in advise(report, None)["why"][0]


def test_it_names_who_misses_the_budget() -> None:
    """golden: the late ones by name; what was not measured counts as late."""
    report = told()
    assert "Budget 3 ms: missed by weighted ensemble." in advise(report, 3.0)["why"]
    assert "Budget 9 ms: kept by all." in advise(report, 9.0)["why"]
    report["rows"][1]["latency_ms_p50"] = None
    assert "Budget 3 ms: missed by simple average, weighted ensemble." in advise(report, 3.0)["why"]
    assert not any("Budget" in sentence for sentence in advise(report, None)["why"])


def test_it_says_what_is_won_and_lost() -> None:
    """golden: speed, in which runtimes, and points of accuracy on both splits, in sentences."""
    assert advise(told(student=0.91), None)["why"][-1] == (
        "The student is 8 times as fast as the weighted ensemble (both in onnxruntime) at +0.00 points of accuracy on "
        "val_search (+0.00 on test)."
    )
    assert "at -11.00 points of accuracy on val_search (+0.00 on test)" in advise(told(student=0.8), 1.0)["why"][-1]
    assert advise(told(student=0.8), None)["why"][-1] == (
        "The weighted ensemble is +11.00 points more accurate on val_search (+0.00 on test); the student would be 8 "
        "times as fast (both in onnxruntime)."
    )
    mixed = told(student=0.91)
    mixed["rows"][2]["runtime"] = "onnxruntime and scikit-learn"
    assert "(in onnxruntime against onnxruntime and scikit-learn)" in advise(mixed, None)["why"][-1]
    unmeasured = told(weighted=(0.91, 4.0), student=0.91)
    unmeasured["rows"][2]["latency_ms_p50"] = None
    assert advise(unmeasured, None)["why"][-1].startswith("The student is smaller than the weighted ensemble at")


def test_options_say_what_each_costs() -> None:
    """golden: figures, the latency of the row with its runtime, and the training time that each needs."""
    options = advise(told(student_ms=0.7), None)["options"]
    assert list(options) == ["simple average", "weighted ensemble", "student"]
    assert [o["training_seconds"] for o in options.values()] == [11.0, 11.0, 1111.0]
    assert [o["latency_ms"] for o in options.values()] == [2.0, 4.0, 0.7]
    assert {o["runtime"] for o in options.values()} == {"onnxruntime"}
    assert options["student"]["val_search_accuracy"] == 0.9 and options["student"]["accuracy"] == 0.5
    assert options["student"]["size_mb"] == 0.1
    assert list(advise(told(weighted=None), None)["options"]) == ["simple average", "student"]
