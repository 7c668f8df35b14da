"""What would change a refusal: more test rows, a larger capacity, or other teachers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from distillery.config.gates import Gate
from distillery.stages.promotion.gates import Verdict

MOST_ROWS = 10_000_000  # more are no advice

ADVICE = {
    "accuracy_gain_over_ensemble": "a larger capacity, or longer training, may come nearer to the ensemble",
    "nll_gain_over_ensemble": "a larger capacity, or longer training, may come nearer to the ensemble",
    "agreement": "a larger capacity, or more views, may come nearer to the ensemble",
    "accuracy_gain_over_rival": "another training of the same network is better: more trials, or other teachers",
    "nll_gain_over_rival": "another training of the same network is better: more trials, or other teachers",
    "accuracy_gain_over_tuned_baseline": "stronger teachers, or a larger weight of the labels (alpha), may help",
    "nll_gain_over_tuned_baseline": "stronger teachers, or a larger weight of the labels (alpha), may help",
    "recovery": "a larger capacity, or more trials, may recover more of the gap",
    "worst_class_drop": "more training rows of that class may help",
    "worst_group_drop": "more training rows of that group may help",
    "ece_over_ensemble": "more validation rows calibrate better",
    "robustness_drop": "views with such disturbances teach the student to bear them",
    "latency_ms_p50": "a smaller capacity is faster",
    "latency_ms_p95": "a smaller capacity is faster",
    "params": "a smaller capacity has fewer",
}


def remedies(gates: Sequence[Gate], verdicts: Sequence[Verdict], rows: int) -> list[str]:
    """A sentence for each failed gate that something is known to change.

    Args:
        gates: Of the config.
        verdicts: One for each gate, in their order.
        rows: How many test rows there are.
    """
    sentences: list[str] = []
    for gate, verdict in zip(gates, verdicts, strict=True):
        if verdict.passed is not False:
            continue
        advice = _more_rows(gate, verdict, rows) or ADVICE.get(gate.figure, "")
        if advice and f"what may help: {advice}" not in sentences:
            sentences.append(f"what may help: {advice}")
    return sentences


def _more_rows(gate: Gate, verdict: Verdict, rows: int) -> str:
    """How many test rows would show what these suggest; empty where the figure itself misses the limit.

    An interval narrows with the square root of the rows.
    """
    limit = verdict.limit
    if gate.bound == "value" or verdict.value is None or verdict.low is None or verdict.high is None:
        return ""
    room = verdict.value - limit if gate.at_least is not None else limit - verdict.value
    end = verdict.low if gate.bound == "low" else verdict.high
    half = abs(verdict.value - end)
    if room <= 0:
        return ""
    needed = math.ceil(rows * (half / room) ** 2)
    if needed > MOST_ROWS:
        return ""
    name = gate.figure.replace("_", " ")
    return f"with some {needed:,} test rows ({rows:,} now) the same {name} would pass"
