"""Gates: a truth table, and names that mean something."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from tiny_chain import FinishedChain

from distillery.config.config_file import parse
from distillery.config.gates import FIGURES, SHIP_GATES, STRICT_GATES, Gate
from distillery.errors import InputError
from distillery.ops.metrics import Interval
from distillery.stages.evaluation.record import Gain
from distillery.stages.export.record import ExportFigures
from distillery.stages.promotion.gate_figures import gate_figures
from distillery.stages.promotion.gates import judge
from distillery.stages.roles import Role

GAIN = Interval(0.5, 0.25, 0.75)
EXPORTED = ExportFigures(
    parity=1e-7, onnx_mb=0.5, request_ms_p50=0.1, request_ms_p95=0.2, request_ms_p99=0.3, requests_per_s=9e4
)

TABLE: list[tuple[dict[str, Any], bool]] = [
    ({"at_least": 0.5}, True),
    ({"at_least": 0.51}, False),
    ({"at_most": 0.5}, True),
    ({"at_most": 0.49}, False),
    ({"bound": "low", "at_least": 0.25}, True),
    ({"bound": "low", "at_least": 0.26}, False),
    ({"bound": "low", "at_most": 0.25}, True),
    ({"bound": "low", "at_most": 0.24}, False),
    ({"bound": "high", "at_least": 0.75}, True),
    ({"bound": "high", "at_least": 0.76}, False),
    ({"bound": "high", "at_most": 0.75}, True),
    ({"bound": "high", "at_most": 0.74}, False),
]


@pytest.mark.parametrize(("limit", "passed"), TABLE, ids=str)
def test_a_gate_compares_the_end_that_it_names(limit: dict[str, Any], passed: bool) -> None:
    """golden: value 0.5 with an interval from 0.25 to 0.75; a limit that is just met is met."""
    (found,) = judge((Gate(figure="recovery", **limit),), {"recovery": GAIN})
    assert found.passed is passed
    assert (found.figure, found.value, found.low, found.high) == ("recovery", 0.5, 0.25, 0.75)
    assert found.limit == limit.get("at_least", limit.get("at_most"))


def test_a_limit_of_zero_is_a_limit() -> None:
    """golden: zero is not the same as no limit."""
    figures = {"recovery": Interval(-0.1, -0.2, 0.0)}
    least, most = judge((Gate(figure="recovery", at_least=0.0), Gate(figure="recovery", at_most=0.0)), figures)
    assert (least.passed, least.limit, most.passed, most.limit) == (False, 0.0, True, 0.0)


def test_a_verdict_can_be_read_alone() -> None:
    """golden: figure, bound, limit, what was found and its note, in words."""
    gate = Gate(figure="worst_class_drop", bound="low", at_most=0.03)
    (found,) = judge((gate,), {"worst_class_drop": Interval(0.1, 0.04, 0.16, "cat")})
    assert found.text == "worst class drop, lower bound: expected at most 0.03, got 0.04 of 0.1 [0.04, 0.16], cat"
    (exact,) = judge((Gate(figure="parity", at_most=1e-4),), {"parity": Interval(1e-7, 1e-7, 1e-7)})
    assert exact.text == "parity: expected at most 0.0001, got 1e-07"


@pytest.mark.parametrize(
    ("figures", "why"),
    [({}, "not measured"), ({"recovery": Interval(None, None, None, "gap not significant: [-1, 1]")}, "[-1, 1]")],
    ids=["missing", "undefined"],
)
def test_a_figure_that_is_not_defined_does_not_block(figures: dict[str, Interval], why: str) -> None:
    """golden: neither passed nor failed, and the text says why."""
    (found,) = judge((Gate(figure="recovery", at_least=0.8),), figures)
    assert found.passed is None and found.value is None
    assert "not judged" in found.text and why in found.text


def test_verdicts_keep_the_order_of_the_gates() -> None:
    """property: one verdict per gate, in their order."""
    gates = (Gate(figure="recovery", at_least=0.4), Gate(figure="nll", at_most=1), Gate(figure="recovery", at_most=0.4))
    found = judge(gates, {"recovery": GAIN})
    assert [v.passed for v in found] == [True, None, False]


@pytest.mark.parametrize("limits", [{}, {"at_least": 0.1, "at_most": 0.2}], ids=["none", "both"])
def test_a_gate_has_one_limit(limits: dict[str, float]) -> None:
    """contract of error messages: neither none nor both, with the figure's name."""
    with pytest.raises(ValidationError, match="either at_least or at_most for 'recovery'"):
        Gate(figure="recovery", **limits)


def test_an_unknown_figure_is_refused_with_the_nearest(tree: dict[str, Any]) -> None:
    """contract of error messages: the config names the gate and the figure that was probably meant."""
    tree["gates"] = [{"figure": "parity", "at_most": 1}, {"figure": "agreemnt", "at_least": 0.9}]
    with pytest.raises(InputError, match=r"gates\.1.*did you mean 'agreement'") as error:
        parse(tree)
    assert "\n" not in str(error.value)


BEYOND = [
    ({"at_least": -0.01}, Interval(-0.02, -0.05, 0.01), True),
    ({"at_least": -0.01}, Interval(-0.02, -0.03, -0.01), False),
    ({"at_least": -0.01}, Interval(-0.005, -0.009, -0.001), True),
    ({"at_most": 0.03}, Interval(0.04, -0.01, 0.09), True),
    ({"at_most": 0.03}, Interval(0.04, 0.01, 0.07), False),
    ({"at_most": 0.03}, Interval(0.04, 0.04, 0.04), False),
]


@pytest.mark.parametrize(("limit", "found", "passed"), BEYOND, ids=str)
def test_what_chance_explains_is_no_harm(limit: dict[str, float], found: Interval, passed: bool) -> None:
    """golden: a figure beyond its limit fails only if its whole interval is on the bad side of 0; exact ones do."""
    gate = Gate(figure="ece_over_ensemble", beyond_chance=True, **limit)
    (verdict,) = judge((gate,), {"ece_over_ensemble": found})
    assert verdict.passed is passed and "unless by chance" in verdict.text
    with pytest.raises(ValidationError, match="expected bound: value for 'nll' with beyond_chance"):
        Gate(figure="nll", bound="low", beyond_chance=True, **limit)


def test_the_config_asks_whether_a_model_is_fit_to_ship_unless_it_says_otherwise(tree: dict[str, Any]) -> None:
    """golden: nine gates without any mention, eleven by the word strict; an empty list is no gate at all."""
    assert parse(tree).gates == SHIP_GATES and len(SHIP_GATES) == 9 and parse(tree).ship == "best"
    assert parse({**tree, "gates": "ship"}) == parse(tree)
    strict = parse({**tree, "gates": "strict"})
    assert strict.gates == STRICT_GATES and len(STRICT_GATES) == 11 and strict.ship == "student"
    assert parse({**tree, "gates": []}).gates == ()
    for gate in (*SHIP_GATES, *STRICT_GATES):
        assert Gate(**gate.model_dump()) == gate and FIGURES[gate.figure]


def test_an_unknown_word_for_gates_is_refused(tree: dict[str, Any]) -> None:
    """contract of error messages: the words that there are."""
    with pytest.raises(
        InputError, match=r"gates: expected a list of gates or a word: .*did you mean 'strict'"
    ) as error:
        parse({**tree, "gates": "strickt"})
    assert "\n" not in str(error.value)


def test_every_figure_is_measured(finished: FinishedChain) -> None:
    """property: a finished run gives each name that a gate may use, and no other."""
    found = gate_figures(finished.evaluated, EXPORTED)
    assert set(found) == set(FIGURES)
    assert all(isinstance(v, Interval) and (v.value is not None or v.note) for v in found.values())


def test_figures_are_those_of_the_stages(finished: FinishedChain) -> None:
    """reference: gains, recovery, rows and latency of the evaluation; requests, size and parity of the export."""
    result = finished.evaluated
    found = gate_figures(result, EXPORTED)
    assert found["nll_gain_over_ensemble"] == result.gains[Role.ENSEMBLE].nll
    assert found["accuracy_gain_over_rival"] == result.gains[result.rival].accuracy
    for role in (Role.PLAIN, Role.TUNED):
        if role is result.candidate.role:
            assert found[f"nll_gain_over_{role}"].value is None
        else:
            assert found[f"nll_gain_over_{role}"] == result.gains[role].nll
    assert found["nll_recovery"] == result.gap_recovery[Role.TUNED].nll
    for name in ("accuracy", "nll", "ece", "agreement", "params", "latency_ms_p50", "latency_ms_p95"):
        assert found[name] == Interval(*(getattr(result.candidate, name),) * 3)
    assert found["ece_over_ensemble"].value == pytest.approx(result.candidate.ece - result.ensemble.ece)
    assert (found["request_ms_p50"].value, found["request_ms_p95"].value, found["size_mb"].value) == (0.1, 0.2, 0.5)
    worst = max(result.robustness, key=lambda row: row.beyond_ensemble.value or 0.0)
    assert found["robustness_drop"].note == worst.disturbance
    assert found["worst_group_drop"].note == "no groups declared"


@pytest.mark.parametrize(
    ("accuracy", "nll", "expected"),
    [(0.4, 0.9, 0.9), (0.9, 0.4, 0.4), (None, 0.4, 0.4), (-0.5, None, -0.5), (-0.2, -0.5, -0.5), (None, None, None)],
)
def test_recovery_is_that_of_nll_where_it_has_a_gap(
    finished: FinishedChain, accuracy: float | None, nll: float | None, expected: float | None
) -> None:
    """golden: never the better of two, which chance favours; accuracy's where it alone is defined; or none."""

    def shown(value: float | None) -> Interval:
        return Interval(value, value, value, "" if value is not None else "gap not significant")

    recovery = {Role.TUNED: Gain(accuracy=shown(accuracy), nll=shown(nll))}
    changed = finished.evaluated.model_copy(update={"gap_recovery": recovery})
    found = gate_figures(changed, EXPORTED)["recovery"]
    assert (found.value, found.low, found.high) == (expected,) * 3
    notes = {nll: "in NLL", accuracy: "in accuracy, as NLL has no gap"}
    assert found.note == ("gap not significant" if expected is None else notes[expected])
