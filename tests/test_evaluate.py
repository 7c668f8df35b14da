"""Stage `evaluation`: every figure again from the logits that it kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from distillery import metrics
from distillery.config import Recipe, Teacher
from distillery.ensemble import chosen, label, optimize_weights, pool_logits
from distillery.evaluate import evaluate
from distillery.logits import cache_logits, read_logits
from distillery.store import Store, fingerprint
from distillery.students import load_student
from distillery.teachers import train_teacher
from distillery.training.fit import predict


@pytest.fixture(scope="module")
def content(finished: SimpleNamespace) -> dict[str, Any]:
    """evaluation.json."""
    found: dict[str, Any] = finished.evaluation.json("evaluation.json")
    return found


@pytest.fixture(scope="module")
def logits(finished: SimpleNamespace) -> dict[str, np.ndarray]:
    """test_logits.npz."""
    with np.load(finished.evaluation.file("test_logits.npz")) as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_there_is_a_row_for_every_model(
    finished: SimpleNamespace, content: dict[str, Any], logits: dict[str, np.ndarray]
) -> None:
    """golden: members, uniform and chosen ensemble, baseline and student of each capacity; one student is chosen."""
    names = [f"{r['role']} {r['name']}" for r in content["rows"]]
    expected = [f"teacher mlp-0{i}" for i in range(3)] + ["ensemble uniform", f"ensemble {label(finished.ensemble)}"]
    for capacity in ("small", "large"):
        expected += [f"baseline {capacity}", f"student {capacity}"]
    assert names == expected == list(logits)
    assert [f"{r['role']} {r['name']}" for r in content["rows"] if r.get("chosen")] == [
        content["ensemble"],
        content["student"],
    ]
    assert content["student"] == f"student {finished.chosen}" and content["baseline"] == f"baseline {finished.chosen}"


def test_figures_are_those_of_the_kept_logits(
    finished: SimpleNamespace, content: dict[str, Any], logits: dict[str, np.ndarray]
) -> None:
    """reference: quality, recalls and agreement of every row, computed again."""
    labels = finished.dataset.labels("test")
    for row in content["rows"]:
        found = logits[f"{row['role']} {row['name']}"]
        expected = metrics.quality(found, labels)
        assert {k: row[k] for k in expected} == pytest.approx(expected, rel=1e-5)
        assert row["recall"] == metrics.recall_by_class(found, labels)
        if row["role"] in ("student", "baseline"):
            assert row["agreement"] == metrics.agreement(found, logits[content["ensemble"]])
    student = next(r for r in content["rows"] if r["role"] == "student" and r["chosen"])
    assert finished.evaluation.metrics == {k: student[k] for k in ("accuracy", "nll", "brier", "ece")}


def test_logits_are_those_of_the_models(finished: SimpleNamespace, logits: dict[str, np.ndarray]) -> None:
    """reference: members from their cache, ensembles as pools of members, students by their networks."""
    stacked = np.stack([read_logits(h) for h in finished.logits["test"]])
    for member, expected in zip(finished.members, stacked, strict=True):
        assert np.array_equal(logits[f"teacher {member.name}"], expected)
    weights, pool = chosen(finished.ensemble)
    uniform = pool_logits(stacked, np.full(3, 1 / 3), "probs")
    np.testing.assert_allclose(logits["ensemble uniform"], uniform, rtol=1e-5)
    used = logits[f"ensemble {label(finished.ensemble)}"]
    np.testing.assert_allclose(used, pool_logits(stacked, weights, pool), rtol=1e-5)
    inputs = finished.dataset.inputs[finished.dataset.splits["test"]]
    for rung in finished.rungs:
        for role, handle in (("student", rung.student), ("baseline", rung.baseline)):
            expected = predict(load_student(handle, finished.dataset.spec), inputs)
            np.testing.assert_allclose(logits[f"{role} {rung.capacity}"], expected, atol=1e-6)


def test_val_search_figures_stand_beside(finished: SimpleNamespace, content: dict[str, Any]) -> None:
    """reference: figures on val_search are those of the members' logits and of the students' handles."""
    rows = {f"{r['role']} {r['name']}": r for r in content["rows"]}
    labels = finished.dataset.labels("val_search")
    for member, handle in zip(finished.members, finished.logits["val_search"], strict=True):
        expected = metrics.quality(read_logits(handle), labels)
        assert rows[f"teacher {member.name}"]["val_search_nll"] == pytest.approx(expected["nll"])
    for rung in finished.rungs:
        for role, handle in (("student", rung.student), ("baseline", rung.baseline)):
            row = rows[f"{role} {rung.capacity}"]
            found = (row["val_search_nll"], row["val_search_accuracy"])
            assert found == pytest.approx((handle.metrics["nll"], handle.metrics["accuracy"]), rel=1e-5)


def test_gap_recovery_is_the_chosen_students(
    finished: SimpleNamespace, content: dict[str, Any], logits: dict[str, np.ndarray]
) -> None:
    """reference: a direct call on the kept logits, for accuracy and for NLL."""
    labels = finished.dataset.labels("test")
    for figure, per_row in (("accuracy", metrics.row_correct), ("nll", metrics.row_nll)):
        values = [per_row(logits[content[role]], labels) for role in ("student", "baseline", "ensemble")]
        expected = metrics.gap_recovery(*values, resamples=200, confidence=0.95)
        assert content["gap_recovery"][figure] == vars(expected)


def test_costs_add_up(finished: SimpleNamespace, content: dict[str, Any]) -> None:
    """golden: an ensemble costs its active members together; compression is its costs by the student's."""
    rows = {f"{r['role']} {r['name']}": r for r in content["rows"]}
    each = 8 * 24 + 24 + 24 * 12 + 12 + 12 * 3 + 3
    assert rows["teacher mlp-00"]["params"] == each and rows["ensemble uniform"]["params"] == 3 * each
    ensemble, student = rows[content["ensemble"]], rows[content["student"]]
    assert ensemble["params"] == each * int((chosen(finished.ensemble)[0] > 0).sum())
    keys = {"params": "params", "size": "size_mb", "macs": "macs", "latency": "latency_ms_p50"}
    assert content["compression"] == {k: ensemble[f] / student[f] for k, f in keys.items()}


def test_the_test_rows_are_on_record(finished: SimpleNamespace, content: dict[str, Any]) -> None:
    """reference: number and digest of the rows that were opened, and the class names."""
    rows = finished.dataset.splits["test"]
    assert (content["test_rows"], content["test_rows_digest"]) == (300, fingerprint(rows.tolist()))
    assert content["classes"] == finished.dataset.classes


def test_members_without_a_network_have_the_costs_they_can_have(
    finished: SimpleNamespace, store: Store, tmp_path: Any
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
    members = [train_teacher(t.name, t, Recipe(), 0, data, store) for t in teachers]
    cached = {
        split: [cache_logits(m, split, data, cfg.logits, store) for m in members]
        for split in ("val_ensemble", "val_search", "test")
    }
    pooled = optimize_weights(members, cached["val_ensemble"], data, cfg.ensemble, store)
    handle = evaluate(
        members, cached["val_search"], cached["test"], pooled, finished.rungs[:1], "small", data, cfg.evaluation, store
    )
    rows = {r["name"]: r for r in handle.json("evaluation.json")["rows"]}
    assert rows["trees"]["size_mb"] > 0 and rows["trees"]["latency_ms_p50"] > 0 and rows["trees"]["params"] is None
    assert [rows["given"][k] for k in ("params", "macs", "size_mb", "latency_ms_p50")] == [None] * 4
    assert rows["uniform"]["size_mb"] is None and rows["uniform"]["latency_ms_p50"] is None
    assert handle.json("evaluation.json")["compression"]["params"] is None
