"""Stage `evaluation`: every figure again from the logits that it kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny_chain import FinishedChain

from distillery.config.experiment import Recipe, Teacher
from distillery.errors import InputError
from distillery.ops import metrics
from distillery.ops.calibration_error import ece_difference
from distillery.ops.pooling import pool_logits
from distillery.stages.ensemble.weight_selection import chosen, label, optimize_weights
from distillery.stages.evaluation import comparisons, robustness
from distillery.stages.evaluation.evaluation import check_groups, evaluate, logits_on_test
from distillery.stages.evaluation.inputs import Inputs
from distillery.stages.evaluation.record import EvaluationResult
from distillery.stages.logits.logit_cache import cache_logits, read_logits
from distillery.stages.roles import Role
from distillery.stages.students.student_files import evaluate_on, load_student
from distillery.stages.teachers.member_files import load_member
from distillery.stages.teachers.teacher_training import train_teachers
from distillery.store import Handle, Store
from distillery.training.single import predict

SETTINGS: dict[str, Any] = {"resamples": 200, "confidence": 0.95}


def networks(finished: FinishedChain) -> dict[str, Handle]:
    """The trained network of each row, by its title: of every capacity the first one of each role."""
    found = {}
    for final in finished.finals:
        for role in (Role.PLAIN, Role.TUNED, Role.STUDENT):
            if final.of(role):
                found[f"{role.words} {final.capacity}"] = final.of(role)[0]
    return found


@pytest.fixture(scope="module")
def logits(finished: FinishedChain) -> dict[str, np.ndarray]:
    """What every model answers on test: members by their cache, ensembles as pools of it, students by networks."""
    stacked = np.stack([read_logits(h) for h in finished.logits["test"]])
    found = {f"teacher {m.name}": z for m, z in zip(finished.members, stacked, strict=True)}
    found["ensemble uniform"] = pool_logits(stacked, np.full(3, 1 / 3), "probs")
    found[f"ensemble {label(finished.ensemble)}"] = chosen(finished.ensemble).apply(stacked)
    inputs = finished.dataset.inputs[finished.dataset.splits["test"]]
    for name, handle in networks(finished).items():
        found[name] = predict(load_student(handle, finished.dataset.spec), inputs)
    return found


@pytest.fixture(scope="module")
def result(finished: FinishedChain) -> EvaluationResult:
    """evaluation.json."""
    return finished.evaluated


@pytest.fixture(scope="module")
def kept(finished: FinishedChain) -> dict[Role, np.ndarray]:
    """test_logits.npz."""
    return logits_on_test(finished.evaluation)


def test_there_is_a_row_for_every_model(
    finished: FinishedChain, result: EvaluationResult, logits: dict[str, np.ndarray]
) -> None:
    """golden: members, both ensembles, student and baseline of each capacity, the tuned one of the chosen alone."""
    expected = [f"teacher mlp-0{i}" for i in range(3)] + ["ensemble uniform", f"ensemble {label(finished.ensemble)}"]
    for capacity in ("small", "large"):
        tuned = [f"tuned baseline {capacity}"] if capacity == finished.chosen else []
        expected += [f"plain baseline {capacity}", *tuned, f"student {capacity}"]
    assert [row.title for row in result.rows] == expected == list(logits)
    assert [row for row in result.rows if row.chosen] == [result.ensemble, result.candidate]
    final = next(f for f in finished.finals if f.capacity == finished.chosen)
    assert (result.candidate.role, result.candidate.name) == (final.candidate, finished.chosen)
    assert result.compared(Role.STUDENT).title == f"student {finished.chosen}"
    with pytest.raises(KeyError):
        result.compared(Role.TEACHER)


def test_figures_are_those_of_the_models(
    finished: FinishedChain, result: EvaluationResult, logits: dict[str, np.ndarray]
) -> None:
    """reference: quality, recalls and nearness to the ensemble of every row, computed again."""
    labels = finished.dataset.labels("test")
    for row in result.rows:
        found = logits[row.title]
        expected = metrics.quality(found, labels)
        assert {k: getattr(row, k) for k in expected} == pytest.approx(expected, rel=1e-4)
        assert row.recall == metrics.recall_by_class(found, labels)
        if row.role not in (Role.TEACHER, Role.ENSEMBLE):
            near = comparisons.fidelity(found, logits[result.ensemble.title], labels)
            assert {k: getattr(row, k) for k in near} == pytest.approx(near, rel=1e-4)
    candidate = result.candidate
    assert finished.evaluation.metrics == {k: getattr(candidate, k) for k in ("accuracy", "nll", "brier", "ece")}


def test_logits_of_the_compared_models_are_kept(
    result: EvaluationResult, logits: dict[str, np.ndarray], kept: dict[Role, np.ndarray]
) -> None:
    """reference: student, baselines and ensemble in use by the models' own answers, float32, and no others."""
    assert set(kept) == {Role.STUDENT, Role.ENSEMBLE, Role.PLAIN, Role.TUNED}
    for role, found in kept.items():
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, logits[result.compared(role).title], rtol=1e-5, atol=1e-5)


def test_val_search_figures_stand_beside(finished: FinishedChain, result: EvaluationResult) -> None:
    """reference: figures on val_search are those of the members' logits and of the students' handles."""
    rows = {row.title: row for row in result.rows}
    labels = finished.dataset.labels("val_search")
    for member, handle in zip(finished.members, finished.logits["val_search"], strict=True):
        expected = metrics.quality(read_logits(handle), labels)
        assert rows[f"teacher {member.name}"].val_search_nll == pytest.approx(expected["nll"])
    for name, handle in networks(finished).items():
        found = (rows[name].val_search_nll, rows[name].val_search_accuracy)
        assert found == pytest.approx((handle.metrics["nll"], handle.metrics["accuracy"]), rel=1e-5)


def test_comparisons_are_the_candidates(
    finished: FinishedChain, result: EvaluationResult, kept: dict[Role, np.ndarray]
) -> None:
    """reference: gains, recoveries, calibration and the worst class by direct calls on the kept logits."""
    labels, role = finished.dataset.labels("test"), result.candidate.role
    candidate, whole = kept[role], kept[Role.ENSEMBLE]
    assert set(result.gains) == set(kept) - {role}
    for other, gain in result.gains.items():
        assert gain == comparisons.gains(candidate, kept[other], labels, **SETTINGS)
    assert set(result.gap_recovery) == {Role.PLAIN, Role.TUNED}
    for baseline, recovery in result.gap_recovery.items():
        expected = comparisons.recoveries(kept[Role.STUDENT], kept[baseline], whole, labels, **SETTINGS)
        assert recovery == expected
    assert result.ece_over_ensemble == ece_difference(candidate, whole, labels, **SETTINGS)
    parts = {name: np.flatnonzero(labels == number) for number, name in enumerate(result.classes)}
    worst = comparisons.worst_drop(candidate, kept[Role.ENSEMBLE], labels, parts, 0.95)
    assert result.worst_class_drop == worst and worst.note in result.classes


def test_rivals_are_the_best_on_val_search(result: EvaluationResult, kept: dict[Role, np.ndarray], labels: Any) -> None:
    """reference: the rival is the best of the others; whether teachers helped is asked of the best baseline."""
    nll = {role: result.compared(role).val_search_nll for role in kept if role is not Role.ENSEMBLE}
    others = {role: value for role, value in nll.items() if role is not result.candidate.role}
    assert nll[result.rival] == min(others.values()) and result.rival in others
    assert nll[result.best_baseline] == min(nll[Role.PLAIN], nll[Role.TUNED])
    expected = comparisons.gains(kept[Role.STUDENT], kept[result.best_baseline], labels, **SETTINGS)
    assert result.distillation == expected


@pytest.fixture
def labels(finished: FinishedChain) -> np.ndarray:
    """Of the test rows."""
    return finished.dataset.labels("test")


def test_seeds_are_on_record(finished: FinishedChain, result: EvaluationResult) -> None:
    """reference: a record per seed of the chosen capacity's networks on test; the first is the row's."""
    final = next(f for f in finished.finals if f.capacity == finished.chosen)
    labels = finished.dataset.labels("test")
    assert len(result.seeds) == len(final.students) == 2
    for role in (Role.STUDENT, Role.PLAIN, Role.TUNED):
        for record, handle in zip(result.seeds, final.of(role), strict=True):
            expected = metrics.quality(evaluate_on(handle, finished.dataset, "test"), labels)
            assert (record[role].accuracy, record[role].nll) == pytest.approx((expected["accuracy"], expected["nll"]))
    assert result.seeds[0][Role.STUDENT].nll == pytest.approx(result.compared(Role.STUDENT).nll, rel=1e-5)
    assert result.seeds[0] != result.seeds[1]


def test_the_curse_is_that_of_the_candidate(result: EvaluationResult) -> None:
    """reference: the difference of the two rows on val_search, beside the gain over the rival on test."""
    found = result.winners_curse
    on_val = result.compared(result.rival).val_search_nll - result.candidate.val_search_nll
    assert found.val_search == pytest.approx(on_val)
    assert found.test == result.gains[result.rival].nll and found.test.high is not None
    assert found.shrank == (found.val_search > found.test.high)


def test_disturbed_rows_are_judged(
    finished: FinishedChain, result: EvaluationResult, kept: dict[Role, np.ndarray]
) -> None:
    """reference: accuracy on the disturbed rows, and the candidate's loss minus the ensemble's, computed again."""
    ids, labels = finished.dataset.splits["test"], finished.dataset.labels("test")
    network = load_student(networks(finished)[result.candidate.title], finished.dataset.spec)
    members = [load_member(handle, finished.dataset) for handle in finished.members]
    changed = robustness.disturbances(finished.dataset, finished.rows, ids)
    assert [row.disturbance for row in result.robustness] == list(changed)
    plain = {role: metrics.row_correct(logits, labels) for role, logits in kept.items()}
    for record, rows in zip(result.robustness, changed.values(), strict=True):
        stacked = np.stack([member.logits(rows, rows) for member in members])
        small = metrics.row_correct(predict(network, rows), labels)
        whole = metrics.row_correct(chosen(finished.ensemble).apply(stacked), labels)
        assert (record.candidate, record.ensemble) == pytest.approx((small.mean(), whole.mean()))
        lost = (plain[result.candidate.role] - small, plain[Role.ENSEMBLE] - whole)
        beyond = metrics.paired_difference(*lost, **SETTINGS, largest=2)
        assert record.beyond_ensemble == beyond and record.rows == 300


def test_disturbed_rows_are_of_every_class(
    finished: FinishedChain, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """property: few rows that are disturbed hold every class."""
    seen: list[np.ndarray] = []

    def watched(dataset: Any, rows: Any, ids: np.ndarray, models: Any) -> dict[str, Any]:
        seen.append(ids)
        return {}

    monkeypatch.setattr("distillery.stages.evaluation.evaluation.disturbed_answers", watched)
    config = finished.config.evaluation.model_copy(update={"robustness_rows": 3})
    evaluate(finished.inputs, finished.rows, config, store)
    (ids,) = seen
    labels = dict(zip(finished.dataset.splits["test"], finished.dataset.labels("test"), strict=True))
    assert len(ids) == 3 and {labels[row] for row in ids} == {0, 1, 2}


def test_groups_are_judged_one_by_one(finished: FinishedChain, kept: dict[Role, np.ndarray], store: Store) -> None:
    """reference: accuracy of every value's rows by a loop, the worst fall below the rival."""
    side = np.where(np.arange(900) % 3 == 0, "left", "right").astype(object)
    side[::50] = None
    assert finished.rows.frame is not None
    rows = replace(finished.rows, frame=finished.rows.frame.assign(side=side))
    config = finished.config.evaluation.model_copy(update={"groups": ("side",), "robustness_rows": 0})
    result = EvaluationResult.read(evaluate(finished.inputs, rows, config, store))
    assert result.robustness == [] and result.groups is not None
    ids, labels = finished.dataset.splits["test"], finished.dataset.labels("test")
    values = ["missing" if v is None else v for v in side[ids]]
    found = result.groups.table
    assert [(row.column, row.value) for row in found] == [("side", v) for v in ("left", "right", "missing")]
    parts = {row.value: np.array([i for i, v in enumerate(values) if v == row.value]) for row in found}
    for row in found:
        places = parts[row.value]
        assert row.rows == len(places) and set(row.accuracy) == set(kept)
        for role, share in row.accuracy.items():
            assert share == pytest.approx((kept[role][places].argmax(-1) == labels[places]).mean())
    named = {f"side = {value}": places for value, places in parts.items()}
    worst = comparisons.worst_drop(kept[result.candidate.role], kept[Role.ENSEMBLE], labels, named, 0.95)
    assert result.groups.worst == worst


def test_groups_must_be_columns(finished: FinishedChain) -> None:
    """contract of error messages: the nearest column; images have none."""
    column = str(finished.rows.frame.columns[0])
    check_groups((column,), finished.rows)
    with pytest.raises(InputError, match=rf"^evaluation\.groups: .*got '{column}0' \(did you mean '{column}"):
        check_groups((column, f"{column}0"), finished.rows)
    with pytest.raises(InputError, match=r"evaluation\.groups"):
        check_groups(("x",), replace(finished.rows, frame=None))


def test_costs_add_up(finished: FinishedChain, result: EvaluationResult) -> None:
    """golden: an ensemble costs its active members together; compression is its costs by the candidate's."""
    rows = {row.title: row for row in result.rows}
    each = 8 * 24 + 24 + 24 * 12 + 12 + 12 * 3 + 3
    assert rows["teacher mlp-00"].params == each and rows["ensemble uniform"].params == 3 * each
    ensemble, small = result.ensemble, result.candidate
    assert ensemble.params == each * len(chosen(finished.ensemble).active)
    keys = {"params": "params", "size": "size_mb", "macs": "macs", "latency": "latency_ms_p50"}
    expected = {k: getattr(ensemble, name) / getattr(small, name) for k, name in keys.items()}
    assert result.compression.model_dump() == expected


def test_the_test_rows_are_on_record(finished: FinishedChain, result: EvaluationResult) -> None:
    """reference: number and digest of the rows that were opened, and the class names."""
    assert (result.test_rows, result.test_rows_digest) == (300, finished.dataset.digest("test"))
    assert result.classes == finished.dataset.classes


def test_members_without_a_network_have_the_costs_they_can_have(
    finished: FinishedChain, store: Store, tmp_path: Any
) -> None:
    """contract: an estimator has size and latency, given logits have none, and an ensemble of them has no sum."""
    np.savez(tmp_path / "x.npz", logits=np.eye(3, dtype=np.float32)[np.arange(900) % 3])
    teachers = (
        Teacher(
            name="trees", family="sklearn", estimator="sklearn.tree.DecisionTreeClassifier", params={"max_depth": 3}
        ),
        Teacher(name="given", family="given", path=str(tmp_path / "x.npz")),
    )
    cfg, data = finished.config, finished.data
    members = [train_teachers([t.name], t, Recipe(), 0, data, store)[0] for t in teachers]
    cached = {
        split: [cache_logits(m, split, data, cfg.logits, store) for m in members]
        for split in ("val_ensemble", "val_search", "test")
    }
    pooled = optimize_weights(members, cached["val_ensemble"], data, cfg.ensemble, store)
    finals = [replace(finished.finals[0], tuned=(), candidate=Role.STUDENT)]
    judged = Inputs(members, cached["val_search"], cached["test"], pooled, finals, "small", data, finished.profiles)
    result = EvaluationResult.read(evaluate(judged, finished.rows, cfg.evaluation, store))
    rows = {row.name: row for row in result.rows}
    trees, given = rows["trees"], rows["given"]
    assert trees.size_mb and trees.latency_ms_p50 and trees.params is None
    assert [given.params, given.macs, given.size_mb, given.latency_ms_p50] == [None] * 4
    assert trees.runtime == "scikit-learn" and given.runtime is None
    assert rows["uniform"].size_mb is None and rows["uniform"].latency_ms_p50 is None
    assert result.compression.params is None
    active = [members[i].name for i in chosen(pooled).active]
    assert (result.robustness == []) == ("given" in active)
    assert set(result.gap_recovery) == {Role.PLAIN} and result.rival is Role.PLAIN
    assert result.worst_class_drop.value is not None
