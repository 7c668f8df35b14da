"""What would change a refusal."""

from __future__ import annotations

import pytest

from distillery.config.gates import SHIP_GATES, STRICT_GATES, Gate
from distillery.ops.metrics import Interval
from distillery.stages.promotion.gates import judge
from distillery.stages.promotion.remedies import ADVICE, remedies


@pytest.mark.parametrize(
    ("gate", "found", "rows"),
    [
        (Gate(figure="accuracy_gain_over_ensemble", bound="low", at_least=-0.01), Interval(0.0, -0.02, 0.02), "400"),
        (Gate(figure="worst_class_drop", bound="high", at_most=0.04), Interval(0.02, 0.0, 0.1), "1,600"),
    ],
)
def test_more_rows_are_counted(gate: Gate, found: Interval, rows: str) -> None:
    """golden: twice as near to the limit as half of the interval takes four times the 100 rows; four times, sixteen."""
    (text,) = remedies((gate,), judge((gate,), {gate.figure: found}), 100)
    assert f"with some {rows} test rows (100 now)" in text


def test_a_figure_that_misses_its_limit_needs_something_else() -> None:
    """contract: more rows cannot help; equal advice is given once; what passed or is open needs none."""
    gates = (
        Gate(figure="accuracy_gain_over_ensemble", bound="low", at_least=-0.01),
        Gate(figure="nll_gain_over_ensemble", at_least=0.0),
        Gate(figure="parity", at_most=1.0),
        Gate(figure="recovery", at_least=0.8),
    )
    lost = Interval(-0.2, -0.3, -0.1)
    figures = {"accuracy_gain_over_ensemble": lost, "nll_gain_over_ensemble": lost, "parity": Interval(0.5, 0.5, 0.5)}
    (text,) = remedies(gates, judge(gates, figures), 100)
    assert text.startswith("what may help: a larger capacity")


def test_most_gates_have_advice() -> None:
    """property: of the gates that come with the product, all but parity, which nothing but a fault can fail."""
    named = {gate.figure for gate in (*SHIP_GATES, *STRICT_GATES)}
    assert named - set(ADVICE) == {"parity"}
