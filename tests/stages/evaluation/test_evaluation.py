"""Stage `evaluation`: every figure again from the logits that it kept."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_chain import FinishedChain

from distillery.config.experiment import Recipe, Teacher
from distillery.errors import InputError
from distillery.ops import metrics
from distillery.ops.metrics import Interval
from distillery.ops.pooling import pool_logits
from distillery.stages.ensemble.weight_selection import chosen, label, optimize_weights
from distillery.stages.evaluation import comparisons, robustness
from distillery.stages.evaluation.evaluation import Inputs, _Evaluator, check_groups, evaluate
from distillery.stages.logits.logit_cache import cache_logits, read_logits
from distillery.stages.students.student_training import evaluate_on, load_student
from distillery.stages.teachers.teacher_training import load_member, train_teachers
from distillery.store import Handle, Store
from distillery.training.single import predict

SETTINGS: dict[str, Any] = {"resamples": 200, "confidence": 0.95}


@pytest.fixture(scope="module")
def content(finished: FinishedChain) -> dict[str, Any]:
    """evaluation.json."""
    found: dict[str, Any] = finished.evaluation.json("evaluation.json")
    return found


def networks(finished: FinishedChain) -> dict[str, Handle]:
    """The trained network of each row: of every capacity the first student and its baselines."""
    found = {}
    for final in finished.finals:
        found[f"plain baseline {final.capacity}"] = final.plain[0]
        if final.tuned:
            found[f"tuned baseline {final.capacity}"] = final.tuned[0]
        found[f"student {final.capacity}"] = final.students[0]
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
def kept(finished: FinishedChain) -> dict[str, np.ndarray]:
    """test_logits.npz."""
    with np.load(finished.evaluation.file("test_logits.npz")) as arrays:
        return {name: arrays[name] for name in arrays.files}


def row(content: dict[str, Any], name: str) -> dict[str, Any]:
    """The row of a model by role and name."""
    found: dict[str, Any] = next(r for r in content["rows"] if f"{r['role']} {r['name']}" == name)
    return found


def test_there_is_a_row_for_every_model(
    finished: FinishedChain, content: dict[str, Any], logits: dict[str, np.ndarray]
) -> None:
    """golden: members, both ensembles, student and baseline of each capacity, the tuned one of the chosen alone."""
    names = [f"{r['role']} {r['name']}" for r in content["rows"]]
    expected = [f"teacher mlp-0{i}" for i in range(3)] + ["ensemble uniform", f"ensemble {label(finished.ensemble)}"]
    for capacity in ("small", "large"):
        tuned = [f"tuned baseline {capacity}"] if capacity == finished.chosen else []
        expected += [f"plain baseline {capacity}", *tuned, f"student {capacity}"]
    assert names == expected == list(logits)
    assert [f"{r['role']} {r['name']}" for r in content["rows"] if r.get("chosen")] == [
        content["ensemble"],
        content["student"],
    ]
    assert content["student"] == f"student {finished.chosen}"
    assert content["baselines"] == {k: f"{k} baseline {finished.chosen}" for k in ("plain", "tuned")}


def test_figures_are_those_of_the_models(
    finished: FinishedChain, content: dict[str, Any], logits: dict[str, np.ndarray]
) -> None:
    """reference: quality, recalls and nearness to the ensemble of every row, computed again."""
    labels = finished.dataset.labels("test")
    for row in content["rows"]:
        found = logits[f"{row['role']} {row['name']}"]
        expected = metrics.quality(found, labels)
        assert {k: row[k] for k in expected} == pytest.approx(expected, rel=1e-4)
        assert row["recall"] == metrics.recall_by_class(found, labels)
        if row["role"] not in ("teacher", "ensemble"):
            near = comparisons.fidelity(found, logits[content["ensemble"]], labels)
            assert {k: row[k] for k in near} == pytest.approx(near, rel=1e-4)
    student = next(r for r in content["rows"] if r["role"] == "student" and r["chosen"])
    assert finished.evaluation.metrics == {k: student[k] for k in ("accuracy", "nll", "brier", "ece")}


def test_logits_of_the_compared_models_are_kept(
    content: dict[str, Any], logits: dict[str, np.ndarray], kept: dict[str, np.ndarray]
) -> None:
    """reference: student, baselines and ensemble in use by the models' own answers, float32, and no others."""
    assert set(kept) == {content["student"], content["ensemble"], *content["baselines"].values()}
    for name, found in kept.items():
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, logits[name], rtol=1e-5, atol=1e-5)


def test_val_search_figures_stand_beside(finished: FinishedChain, content: dict[str, Any]) -> None:
    """reference: figures on val_search are those of the members' logits and of the students' handles."""
    rows = {f"{r['role']} {r['name']}": r for r in content["rows"]}
    labels = finished.dataset.labels("val_search")
    for member, handle in zip(finished.members, finished.logits["val_search"], strict=True):
        expected = metrics.quality(read_logits(handle), labels)
        assert rows[f"teacher {member.name}"]["val_search_nll"] == pytest.approx(expected["nll"])
    for name, handle in networks(finished).items():
        found = (rows[name]["val_search_nll"], rows[name]["val_search_accuracy"])
        assert found == pytest.approx((handle.metrics["nll"], handle.metrics["accuracy"]), rel=1e-5)


def test_comparisons_are_the_chosen_students(
    finished: FinishedChain, content: dict[str, Any], kept: dict[str, np.ndarray]
) -> None:
    """reference: gains, recoveries and the worst class by direct calls on the kept logits."""
    labels, student, whole = finished.dataset.labels("test"), kept[content["student"]], kept[content["ensemble"]]
    rivals = {k: kept[name] for k, name in content["baselines"].items()}
    others = {"ensemble": whole, **{f"{k}_baseline": z for k, z in rivals.items()}}
    assert set(content["gains"]) == set(others) and set(content["gap_recovery"]) == {"plain", "tuned"}
    for name, z in others.items():
        expected = comparisons.gains(student, z, labels, **SETTINGS)
        assert content["gains"][name] == {k: asdict(v) for k, v in expected.items()}
    for name, z in rivals.items():
        expected = comparisons.recoveries(student, z, whole, labels, **SETTINGS)
        assert content["gap_recovery"][name] == {k: asdict(v) for k, v in expected.items()}
    parts = {name: np.flatnonzero(labels == number) for number, name in enumerate(content["classes"])}
    worst = comparisons.worst_drop(student, rivals["tuned"], labels, parts, 0.95)
    assert content["worst_class_drop"] == asdict(worst) and worst.note in content["classes"]


def test_seeds_are_on_record(finished: FinishedChain, content: dict[str, Any]) -> None:
    """reference: a record per seed of the chosen capacity's networks on test; the first is the row's."""
    final = next(f for f in finished.finals if f.capacity == finished.chosen)
    labels = finished.dataset.labels("test")
    assert len(content["seeds"]) == len(final.students) == 2
    for role in ("students", "plain", "tuned"):
        for record, handle in zip(content["seeds"], getattr(final, role), strict=True):
            expected = metrics.quality(evaluate_on(handle, finished.dataset, "test"), labels)
            found = (record[f"{role}_accuracy"], record[f"{role}_nll"])
            assert found == pytest.approx((expected["accuracy"], expected["nll"]))
    first, shipped = content["seeds"][0], row(content, content["student"])
    assert first["students_nll"] == pytest.approx(shipped["nll"], rel=1e-5)
    assert content["seeds"][0] != content["seeds"][1]


CURSE = [
    ("tuned", 0.3, Interval(0.1, 0.05, 0.2), True),
    ("tuned", 0.2, Interval(0.1, 0.05, 0.2), False),
    ("tuned", 0.1, Interval(0.1, 0.05, 0.2), False),
    ("tuned", -0.1, Interval(0.1, 0.05, 0.2), False),
    ("tuned", -0.1, Interval(-0.3, -0.4, -0.2), True),
    ("plain", 0.3, Interval(0.1, 0.05, 0.2), True),
    ("plain", 0.15, Interval(0.1, 0.05, 0.2), False),
]


@pytest.mark.parametrize(("rival", "on_val", "on_test", "shrank"), CURSE)
def test_the_winners_curse_is_noticed(rival: str, on_val: float, on_test: Interval, shrank: bool) -> None:
    """golden: raised where the gain on the rows that chose is above the whole interval of the gain on test."""
    judged = _Evaluator.__new__(_Evaluator)
    judged.given = SimpleNamespace(chosen="s")  # type: ignore[assignment]
    judged.baselines = {name: f"{name} baseline s" for name in {"plain", rival}}
    figures = {"student s": 1.0, "student t": 9.0, "plain baseline s": 5.0, f"{rival} baseline s": 1.0 + on_val}
    names = [name.rsplit(" ", 1) for name in figures]
    judged.rows = [
        {"role": role, "name": name, "val_search_nll": nll}
        for (role, name), nll in zip(names, figures.values(), strict=True)
    ]
    found = judged._optimism({f"{rival}_baseline": {"nll": replace(on_test, high=on_test.high + 1e-9)}})
    assert found["val_search"] == pytest.approx(on_val) and found["shrank"] is shrank


def test_the_curse_is_that_of_the_chosen_student(content: dict[str, Any]) -> None:
    """reference: the difference of the two rows on val_search, beside the gain over the tuned baseline on test."""
    student, rival = row(content, content["student"]), row(content, content["baselines"]["tuned"])
    found = content["optimism"]
    assert found["val_search"] == pytest.approx(rival["val_search_nll"] - student["val_search_nll"])
    assert found["test"] == content["gains"]["tuned_baseline"]["nll"]
    assert found["shrank"] == (found["val_search"] > found["test"]["high"])


def test_disturbed_rows_are_judged(
    finished: FinishedChain, content: dict[str, Any], kept: dict[str, np.ndarray]
) -> None:
    """reference: accuracy on the disturbed rows, and the student's loss minus the ensemble's, computed again."""
    ids, labels = finished.dataset.splits["test"], finished.dataset.labels("test")
    network = load_student(networks(finished)[content["student"]], finished.dataset.spec)
    members = [load_member(handle, finished.dataset.spec) for handle in finished.members]
    changed = robustness.disturbances(finished.dataset, finished.rows, ids)
    assert [r["disturbance"] for r in content["robustness"]] == list(changed)
    plain = {k: metrics.row_correct(kept[content[k]], labels) for k in ("student", "ensemble")}
    for record, rows in zip(content["robustness"], changed.values(), strict=True):
        stacked = np.stack([member.logits(rows, rows) for member in members])
        answers = {"student": predict(network, rows), "ensemble": chosen(finished.ensemble).apply(stacked)}
        correct = {k: metrics.row_correct(z, labels) for k, z in answers.items()}
        assert {k: record[k] for k in correct} == pytest.approx({k: v.mean() for k, v in correct.items()})
        lost = {k: plain[k] - correct[k] for k in correct}
        beyond = metrics.paired_difference(lost["student"], lost["ensemble"], **SETTINGS, largest=2)
        assert record["beyond_ensemble"] == asdict(beyond) and record["rows"] == 300


def test_disturbed_rows_are_of_every_class(
    finished: FinishedChain, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """property: of a test split that is sorted by class, the rows that are disturbed hold every class."""
    seen: list[np.ndarray] = []

    def watched(dataset: Any, rows: Any, ids: np.ndarray, models: Any) -> dict[str, Any]:
        seen.append(ids)
        return {}

    monkeypatch.setattr("distillery.stages.evaluation.evaluation.disturbed_answers", watched)
    config = finished.config.evaluation.model_copy(update={"robustness_rows": 30})
    judged = _Evaluator(finished.inputs, finished.rows, config, {})
    order = np.argsort(judged.labels, kind="stable")
    judged.ids, judged.labels = judged.ids[order], judged.labels[order]
    judged.logits = dict.fromkeys((judged.student, judged.ensemble), np.zeros((300, 3), np.float32))
    judged._robustness()
    (ids,) = seen
    labels = dict(zip(judged.ids, judged.labels, strict=True))
    assert len(ids) == 30 and {labels[row] for row in ids} == {0, 1, 2}


def test_groups_are_judged_one_by_one(finished: FinishedChain, kept: dict[str, np.ndarray], tmp_path: Path) -> None:
    """reference: accuracy of every value's rows by a loop, the worst fall below the tuned baseline."""
    side = np.where(np.arange(900) % 3 == 0, "left", "right").astype(object)
    side[::50] = None
    rows = replace(finished.rows, frame=finished.rows.frame.assign(side=side))
    config = finished.config.evaluation.model_copy(update={"groups": ("side",), "robustness_rows": 0})
    (costs,) = finished.store.root.glob("costs/*/costs.json")
    _Evaluator(finished.inputs, rows, config, json.loads(costs.read_text())).write(tmp_path)
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["robustness"] == []
    ids, labels = finished.dataset.splits["test"], finished.dataset.labels("test")
    values = ["missing" if v is None else v for v in side[ids]]
    found = content["groups"]["table"]
    assert [(r["column"], r["value"]) for r in found] == [("side", v) for v in ("left", "right", "missing")]
    names = {"student": content["student"], "ensemble": content["ensemble"], **content["baselines"]}
    parts = {r["value"]: np.array([i for i, v in enumerate(values) if v == r["value"]]) for r in found}
    for record in found:
        places = parts[record["value"]]
        assert record["rows"] == len(places)
        for role, name in names.items():
            assert record[role] == pytest.approx((kept[name][places].argmax(-1) == labels[places]).mean())
    parts = {f"side = {value}": places for value, places in parts.items()}
    z = [kept[names[k]] for k in ("student", "tuned")]
    assert content["groups"]["worst"] == asdict(comparisons.worst_drop(*z, labels, parts, 0.95))


def test_groups_must_be_columns(finished: FinishedChain) -> None:
    """contract of error messages: the nearest column; images have none."""
    column = str(finished.rows.frame.columns[0])
    check_groups((column,), finished.rows)
    with pytest.raises(InputError, match=rf"^evaluation\.groups: .*got '{column}0' \(did you mean '{column}"):
        check_groups((column, f"{column}0"), finished.rows)
    with pytest.raises(InputError, match=r"evaluation\.groups"):
        check_groups(("x",), replace(finished.rows, frame=None))


def test_costs_add_up(finished: FinishedChain, content: dict[str, Any]) -> None:
    """golden: an ensemble costs its active members together; compression is its costs by the student's."""
    rows = {f"{r['role']} {r['name']}": r for r in content["rows"]}
    each = 8 * 24 + 24 + 24 * 12 + 12 + 12 * 3 + 3
    assert rows["teacher mlp-00"]["params"] == each and rows["ensemble uniform"]["params"] == 3 * each
    ensemble, student = rows[content["ensemble"]], rows[content["student"]]
    assert ensemble["params"] == each * len(chosen(finished.ensemble).active)
    keys = {"params": "params", "size": "size_mb", "macs": "macs", "latency": "latency_ms_p50"}
    assert content["compression"] == {k: ensemble[f] / student[f] for k, f in keys.items()}


def test_the_test_rows_are_on_record(finished: FinishedChain, content: dict[str, Any]) -> None:
    """reference: number and digest of the rows that were opened, and the class names."""
    assert (content["test_rows"], content["test_rows_digest"]) == (300, finished.dataset.digest("test"))
    assert content["classes"] == finished.dataset.classes


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
    finals = [replace(finished.finals[0], tuned=())]
    judged = Inputs(members, cached["val_search"], cached["test"], pooled, finals, "small", data, finished.profiles)
    handle = evaluate(judged, finished.rows, cfg.evaluation, store)
    rows = {r["name"]: r for r in handle.json("evaluation.json")["rows"]}
    assert rows["trees"]["size_mb"] > 0 and rows["trees"]["latency_ms_p50"] > 0 and rows["trees"]["params"] is None
    assert [rows["given"][k] for k in ("params", "macs", "size_mb", "latency_ms_p50")] == [None] * 4
    assert rows["trees"]["runtime"] == "scikit-learn" and rows["given"]["runtime"] is None
    assert rows["uniform"]["size_mb"] is None and rows["uniform"]["latency_ms_p50"] is None
    content = handle.json("evaluation.json")
    assert content["compression"]["params"] is None
    active = [members[i].name for i in chosen(pooled).active]
    assert (content["robustness"] == []) == ("given" in active)
    assert set(content["baselines"]) == set(content["gap_recovery"]) == {"plain"}
    assert content["worst_class_drop"]["value"] is not None and content["optimism"]["test"] is not None
