"""Which to use: a truth table."""

from __future__ import annotations

from typing import Any

import pytest

from distillery.advice import MARGIN, advise


def interval(value: float, spread: float = 0.01) -> dict[str, Any]:
    """An interval of that width to each side."""
    return {"value": value, "low": value - spread, "high": value + spread, "note": ""}


def told(
    student: float = 0.90,
    simple: tuple[float, float] = (0.90, 2.0),
    weighted: tuple[float, float] | None = (0.91, 4.0),
    gain: float = 0.1,
    served: float | None = None,
) -> dict[str, Any]:
    """A report of a student (0.5 ms) and ensembles of such accuracy and latency."""
    rows = [
        {"role": "teacher", "name": "t", "accuracy": 0.99, "nll": 0.0, "size_mb": 9.0, "latency_ms_p50": 0.1},
        {
            "role": "ensemble",
            "name": "uniform",
            "accuracy": simple[0],
            "nll": 0.3,
            "size_mb": 4.0,
            "latency_ms_p50": simple[1],
        },
    ]
    if weighted is not None:
        latency = {"latency_ms_p50": weighted[1], "size_mb": 4.0}
        rows.append({"role": "ensemble", "name": "convex", "accuracy": weighted[0], "nll": 0.2, **latency})
    chosen = {"role": "student", "name": "s", "chosen": True, "accuracy": student, "nll": 0.3, "size_mb": 0.1}
    rows.append({**chosen, "name": "other", "chosen": False, "accuracy": 1.0, "latency_ms_p50": 0.0})
    rows.append({**chosen, "latency_ms_p50": 0.5, **({"served_latency_ms_p50": served} if served else {})})
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
    ("served too slow", {"student": 0.8, "served": 1.5}, 1.0, "none"),
    ("only the average in time", {"student": 0.8}, 3.0, "simple average"),
    ("as good as the average in time", {"student": 0.9}, 3.0, "student"),
    ("only the average in time, student served too slow", {"student": 0.91, "served": 5.0}, 3.0, "simple average"),
    ("on the budget", {"student": 0.8}, 4.0, "weighted ensemble"),
]


@pytest.mark.parametrize(("case", "given", "budget", "choice"), TABLE, ids=[row[0] for row in TABLE])
def test_the_choice(case: str, given: dict[str, Any], budget: float | None, choice: str) -> None:
    """golden: as good is the student; clearly worse the better ensemble, if it keeps the budget; else the student."""
    found = advise(told(**given), budget)
    assert found["choice"] == choice
    assert all(sentence.endswith(".") for sentence in found["why"])


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
    """golden: speed and points of accuracy, in sentences."""
    assert advise(told(student=0.91), None)["why"][-1] == (
        "The student is 8 times as fast as the weighted ensemble at +0.00 points of accuracy."
    )
    assert advise(told(student=0.8), 1.0)["why"][-1].endswith("at -11.00 points of accuracy.")
    assert advise(told(student=0.8), None)["why"][-1] == (
        "The weighted ensemble is 11.00 points more accurate; the student would be 8 times as fast."
    )
    unmeasured = told(weighted=(0.91, 4.0), student=0.91)
    unmeasured["rows"][2]["latency_ms_p50"] = None
    assert advise(unmeasured, None)["why"][-1].startswith("The student is smaller than the weighted ensemble at")


def test_options_say_what_each_costs() -> None:
    """golden: figures, latency as served where known, and the training time that each needs."""
    options = advise(told(served=0.7), None)["options"]
    assert list(options) == ["simple average", "weighted ensemble", "student"]
    assert [o["training_seconds"] for o in options.values()] == [11.0, 11.0, 1111.0]
    assert [o["latency_ms"] for o in options.values()] == [2.0, 4.0, 0.7]
    assert options["student"]["accuracy"] == 0.9 and options["student"]["size_mb"] == 0.1
    assert list(advise(told(weighted=None), None)["options"]) == ["simple average", "student"]
