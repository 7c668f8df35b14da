"""The speed benchmark's own arithmetic: the order of measurements, paired ratios, goals."""

from __future__ import annotations

import sys

import pairs
import pytest


def test_sides_take_turns_after_a_call_that_does_not_count() -> None:
    """golden: A B, then A B A B; each side keeps a cost for each round."""
    calls: list[str] = []
    sides = [pairs.Side(name, lambda name=name: calls.append(name)) for name in "AB"]
    costs = pairs.in_turn(sides, 2)
    assert "".join(calls) == "AB" + "ABAB" and [len(mine) for mine in costs] == [2, 2]


def test_costs_are_per_unit_and_include_children() -> None:
    """property: ten units cost a tenth each; CPU seconds of a program that was waited for count."""
    [[cost]] = pairs.in_turn([pairs.Side("ten", lambda: sum(range(2_000_000)), 10)], 1)
    assert 0 < cost.cpu < 0.1
    spent = pairs.cost_of(pairs.program([sys.executable, "-c", "sum(range(10**7))"]))
    assert spent.cpu > 0.02


def test_ratios_are_paired_and_judged() -> None:
    """golden: median, lowest and highest of the ratios pair by pair; as dear is the inverse of as fast."""
    seconds = ((4.0, 2.0), (9.0, 3.0), (8.0, 2.0))
    reference, candidate = ([pairs.Cost(pair[side], 2 * pair[side]) for pair in seconds] for side in (0, 1))
    measured, results = pairs.Pairing(("loop", "ours"), reference, candidate), pairs.Results("part")
    results.row("1", "fast", measured, 3.0, "times as fast")
    results.row("1", "dear", measured, 0.3, "times as dear", by="wall", most=True)
    fast, dear = results.rows
    assert (fast["ratio"], fast["low"], fast["high"], fast["met"]) == (3.0, 2.0, 4.0, True)
    assert (dear["ratio"], dear["met"], dear["sense"]) == (pytest.approx(1 / 3), False, "at most")
    assert fast["reference"] == {"what": "loop", "cpu_s": 8.0, "wall_s": 16.0}
