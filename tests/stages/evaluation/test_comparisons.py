"""Comparisons on the same rows: signs by hand, groups by property, error rates by simulation."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from distillery.ops import metrics
from distillery.stages.evaluation.comparisons import (
    accuracy_by_group,
    by_class,
    by_group,
    fidelity,
    gains,
    recoveries,
    reliabilities,
    worst_drop,
)
from distillery.stages.evaluation.record import ClassRow, Gain
from distillery.stages.roles import Role

SETTINGS: dict[str, Any] = {"resamples": 200, "confidence": 0.9}
SEEDS = st.integers(0, 9999)


def answers(correct: np.ndarray, sure: float = 2.0) -> np.ndarray:
    """Logits [N, 2] that are right, for class 0, where told."""
    right = np.asarray(correct, bool)
    return sure * np.stack([right, ~right], axis=1).astype(np.float64)


def some(seed: int, rows: int = 80, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Three models' logits [N, C] and labels [N]."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    student, other, ensemble = generator.normal(size=(3, rows, classes)) + np.eye(classes)[labels]
    return student, other, ensemble, labels


def test_a_gain_is_positive_where_the_student_is_better() -> None:
    """golden: three of four rows right against two is +0.25 accuracy; the NLL gain is the other's minus the own."""
    labels = np.zeros(4, int)
    student, other = answers(np.array([1, 1, 1, 0])), answers(np.array([1, 1, 0, 0]))
    found = gains(student, other, labels, **SETTINGS)
    assert found.accuracy.value == 0.25 and found.nll.value == pytest.approx(0.25 * 2)
    back = gains(other, student, labels, **SETTINGS)
    assert (back.accuracy.value, back.nll.value) == (-0.25, pytest.approx(-0.5))


@given(SEEDS)
def test_gains_and_recoveries_are_those_of_the_rows(seed: int) -> None:
    """reference: paired differences and gap recovery of the per-row figures, called directly."""
    student, other, ensemble, labels = some(seed)
    right = [metrics.row_correct(z, labels) for z in (student, other, ensemble)]
    nll = [metrics.row_nll(z, labels) for z in (student, other, ensemble)]
    found = gains(student, other, labels, **SETTINGS)
    assert found.accuracy == metrics.paired_share_difference(right[0], right[1], confidence=0.9)
    assert found.nll == metrics.paired_difference(nll[1], nll[0], **SETTINGS)
    expected = Gain(
        accuracy=metrics.gap_recovery(*right, **SETTINGS), nll=metrics.gap_recovery(*(-v for v in nll), **SETTINGS)
    )
    assert recoveries(student, other, ensemble, labels, **SETTINGS) == expected


@given(SEEDS, st.integers(2, 6))
def test_fidelity_is_counted_row_by_row(seed: int, classes: int) -> None:
    """reference: agreement by a loop, divergence by scipy, neither changed by a constant per row."""
    student, ensemble, _, labels = some(seed, classes=classes)
    tops = [(s.argmax(), e.argmax(), y) for s, e, y in zip(student, ensemble, labels, strict=True)]
    found = fidelity(student + 300, ensemble - 300, labels)
    assert found["agreement"] == np.mean([s == e for s, e, _ in tops])
    assert found["agreement_where_ensemble_errs"] == np.mean([s == e for s, e, y in tops if e != y])
    expected = entropy(softmax(ensemble, axis=-1), softmax(student, axis=-1), axis=-1).mean()
    assert found["kl"] == pytest.approx(expected, abs=1e-9)
    assert fidelity(student, log_softmax(student, axis=-1), labels)["kl"] == pytest.approx(0, abs=1e-12)


def test_an_ensemble_without_errors_has_no_shared_ones() -> None:
    """contract: None where there is no row to count."""
    labels = np.zeros(5, int)
    assert fidelity(answers(np.zeros(5)), answers(np.ones(5)), labels)["agreement_where_ensemble_errs"] is None


def _one(drop_by_part: list[float], rows: int, generator: np.random.Generator) -> tuple[metrics.Interval, float]:
    """`worst_drop` at 90 % of one simulated data set, and the true drop of the part that it names."""
    parts = np.arange(len(drop_by_part) * rows).reshape(len(drop_by_part), rows)
    drop = np.repeat(drop_by_part, rows)
    other, student = generator.random(len(drop)) < 0.85, generator.random(len(drop)) < 0.85 - drop
    members = {f"part {i}": part for i, part in enumerate(parts)}
    labels = np.zeros(len(drop), int)
    found = worst_drop(answers(student), answers(other), labels, members, 0.9)
    return found, drop_by_part[int(found.note.split()[1])]


def test_no_drop_is_seldom_called_one() -> None:
    """reference: by simulation, where no part of six falls, one seems to in 10 % of 400 data sets at most (+ 4.5)."""
    generator = np.random.default_rng(0)
    alarms = [(_one([0.0] * 6, 100, generator)[0].low or 0) > 0 for _ in range(400)]
    assert 0.03 <= np.mean(alarms) <= 0.145


def test_each_end_of_a_drop_errs_as_often_as_it_says() -> None:
    """reference: by simulation with one part, each end at 90 % misses the truth in 6 to 14.5 % of 600 data sets."""
    generator = np.random.default_rng(1)
    found = [_one([0.1], 200, generator)[0] for _ in range(600)]
    above, below = [f.low > 0.1 for f in found], [f.high < 0.1 for f in found]  # type: ignore[operator]
    assert 0.06 <= np.mean(above) <= 0.145 and 0.06 <= np.mean(below) <= 0.145


def test_the_interval_of_the_worst_part_holds_its_truth() -> None:
    """reference: by simulation, drops of 0 to 15 %: the named part's lower end is above its truth in 14.5 % at most."""
    generator, drops = np.random.default_rng(2), [0.0, 0.05, 0.15, 0.0, 0.1]
    found = [_one(drops, 150, generator) for _ in range(400)]
    assert np.mean([f.low > truth for f, truth in found]) <= 0.145  # type: ignore[operator]
    assert np.mean([truth == 0.15 for _, truth in found]) > 0.6


def test_the_worst_part_is_named() -> None:
    """golden: of a part that falls by 10 %, one that falls not, and one without rows, the first, by its score ends."""
    other = np.ones(300, bool)
    student = other.copy()
    student[:10] = False
    parts = {"a": np.arange(100), "b": np.arange(100, 200), "none": np.arange(0)}
    labels = np.zeros(300, int)
    found = worst_drop(answers(student), answers(other), labels, parts, 0.95)
    assert (found.note, found.value) == ("a", 0.1)
    low, high = metrics.share_difference_ends(10, 0, 100, 1.959964)  # two parts: each end at 2.5 %
    assert (found.low, found.high) == pytest.approx((float(low), float(high)), abs=1e-6)
    alone = worst_drop(answers(student), answers(other), labels, {"none": parts["none"]}, 0.95)
    assert (alone.value, alone.note) == (None, "no part has any rows")


def test_few_rows_do_not_hide_a_fall_nor_make_one() -> None:
    """golden: ten rows that all fall are beyond chance among thirty parts, two are not; no part has no width."""
    other = np.ones(300, bool)
    labels = np.zeros(300, int)
    for fallen, beyond in ((10, True), (2, False), (0, False)):
        student = other.copy()
        student[:fallen] = False
        parts = {f"part {n}": np.arange(10 * n, 10 * n + 10) for n in range(30)}
        found = worst_drop(answers(student), answers(other), labels, parts, 0.95)
        assert found.low is not None and found.high is not None and found.value is not None
        assert (found.low > 0.03) is beyond and found.low < found.value <= found.high
        assert found.high - found.low > 0.3


def test_words_make_a_group_each() -> None:
    """golden: text, whole numbers and booleans by value, what is missing by itself."""
    words = np.array(["red", "blue", None, "red", ""], object)
    assert {k: v.tolist() for k, v in by_group(words).items()} == {"blue": [1], "red": [0, 3], "missing": [2, 4]}
    assert {k: v.tolist() for k, v in by_group(np.array([3, 1, 3])).items()} == {"1": [1], "3": [0, 2]}
    assert {k: v.tolist() for k, v in by_group(np.array([True, False])).items()} == {"False": [1], "True": [0]}
    assert list(by_group(np.array([1.5, np.nan, 1.5]))) == ["1.5", "missing"]


def test_a_word_that_reads_as_missing_is_no_missing_cell() -> None:
    """contract: every row is in one group, also where a value has the name of the group of empty cells."""
    found = by_group(np.array(["missing", None, "here"], object))
    assert {k: v.tolist() for k, v in found.items()} == {"here": [2], "missing": [0], "missing cells": [1]}


@given(SEEDS)
def test_groups_are_those_of_a_loop(seed: int) -> None:
    """reference: of each value in turn, the rows that hold it, rising."""
    generator = np.random.default_rng(seed)
    values = np.array([f"v{n}" for n in generator.integers(0, 30, 200)], object)
    values[generator.random(200) < 0.1] = None
    expected = {v: [i for i, w in enumerate(values) if w == v] for v in sorted({v for v in values if v is not None})}
    expected |= {"missing": [i for i, v in enumerate(values) if v is None]} if None in values.tolist() else {}
    found = by_group(values)
    assert {k: v.tolist() for k, v in found.items()} == expected and list(found) == list(expected)


def test_accuracy_by_group_is_counted() -> None:
    """golden: two columns, each value with its rows and the share of right answers of every model."""
    frame = pd.DataFrame({"side": ["l", "r", "l"], "old": [True, True, False]})
    table, parts = accuracy_by_group(frame, {Role.STUDENT: np.array([1.0, 0.0, 0.0])})
    assert {k: v.tolist() for k, v in parts.items()} == {
        "side = l": [0, 2],
        "side = r": [1],
        "old = False": [2],
        "old = True": [0, 1],
    }
    assert [(r.column, r.value, r.rows, r.accuracy[Role.STUDENT]) for r in table] == [
        ("side", "l", 2, 0.5),
        ("side", "r", 1, 0.0),
        ("old", "False", 1, 0.0),
        ("old", "True", 2, 0.5),
    ]


@pytest.mark.parametrize("kind", ["Int64", "Float64", "boolean", "string"])
def test_gaps_of_every_kind_of_column_are_missing(kind: str) -> None:
    """contract: pandas' own mark of a missing cell counts as one too."""
    column = pd.Series([1, 0, None, 1], dtype="float").astype("Int64").astype(kind)  # type: ignore[call-overload]
    found = by_group(column.to_numpy())
    assert found.pop("missing").tolist() == [2] and sorted(len(v) for v in found.values()) == [1, 2]


@given(SEEDS, st.sampled_from([0.0, 1e9]), st.floats(0, 0.5))
def test_numbers_are_cut_into_even_parts(seed: int, offset: float, gone: float) -> None:
    """property: every row is in one group, rising, of nearly the same size, whatever the numbers' size."""
    generator = np.random.default_rng(seed)
    values = offset + generator.permutation(200).astype(np.float64)
    values[generator.random(200) < gone] = np.nan
    found = by_group(values)
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(200))
    missing = found.pop("missing", np.empty(0, int))
    assert missing.tolist() == np.flatnonzero(np.isnan(values)).tolist()
    parts = [values[places] for places in found.values()]
    assert len(parts) == 4 and max(map(len, parts)) - min(map(len, parts)) <= 2
    assert all(a.max() < b.min() for a, b in pairwise(parts))


def test_numbers_that_are_mostly_one_make_fewer_parts() -> None:
    """property: equal quantiles make no empty group, and every row is in one."""
    values = np.concatenate([np.zeros(180), np.arange(1, 21)])
    found = by_group(values)
    assert all(len(places) for places in found.values())
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(200))


def test_changes_by_class_are_those_of_its_rows() -> None:
    """golden: one class wins two of four rows, one loses its only row, one has none; ends by the score."""
    labels = np.array([0, 0, 0, 0, 1])
    top = {Role.STUDENT: [0, 0, 0, 1, 0], Role.TUNED: [0, 1, 1, 1, 1]}
    logits = {role: np.eye(3)[classes] for role, classes in top.items()}
    others = {Role.TUNED: logits[Role.TUNED]}
    table = by_class(Role.STUDENT, logits[Role.STUDENT], others, labels, ["a", "b", "c"], 0.95)
    first, second, third = table
    assert first.name == "a" and first.rows == 4 and first.recall == {Role.STUDENT: 0.75, Role.TUNED: 0.25}
    low, high = metrics.share_difference_ends(2, 0, 4, 1.959964)
    change = first.change[Role.TUNED]
    assert (change.value, change.low, change.high) == pytest.approx((0.5, float(low), float(high)), abs=1e-6)
    alone = second.change[Role.TUNED]
    assert alone.value == alone.low == pytest.approx(-1.0) and alone.high > 0.5  # one row says next to nothing
    assert third == ClassRow(name="c", rows=0, recall={Role.STUDENT: None, Role.TUNED: None}, change={})


@given(SEEDS)
def test_reliabilities_are_those_of_each_model(seed: int) -> None:
    """reference: metrics.reliability; weighted by share, the gaps are the ECE."""
    student, other, _, labels = some(seed)
    found = reliabilities({Role.STUDENT: student, Role.TUNED: other}, labels)
    assert list(found) == [Role.STUDENT, Role.TUNED]
    for role, logits in ((Role.STUDENT, student), (Role.TUNED, other)):
        confidence, accuracy, share = metrics.reliability(logits, labels)
        assert found[role].confidence == confidence.tolist()
        assert found[role].accuracy == accuracy.tolist()
        assert found[role].share == share.tolist()
        assert (share * np.abs(confidence - accuracy)).sum() == pytest.approx(metrics.ece(logits, labels))
