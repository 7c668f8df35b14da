"""Stage `costs`: every model in one runtime, each architecture once, and an ensemble as the sum of its parts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_chain import FinishedChain

from distillery.stages.ensemble.weight_selection import chosen
from distillery.stages.evaluation import costs
from distillery.stages.evaluation.costs import CostTable, measure_costs
from distillery.stages.measurement import runtimes
from distillery.stages.teachers.member_files import load_member
from distillery.stages.teachers.members import NetworkMember
from distillery.store import Store

FACTS = ("params", "macs", "size_mb")
EACH = 8 * 24 + 24 + 24 * 12 + 12 + 12 * 3 + 3  # parameters of a member


def measured(finished: FinishedChain, store: Store) -> CostTable:
    """costs.json of the tiny chain."""
    students = [final.students[0] for final in finished.finals]
    parts = (finished.members, students, finished.profiles, finished.ensemble, finished.data)
    return CostTable.read(measure_costs(*parts, 10, store))


@pytest.fixture(scope="module")
def graph(finished: FinishedChain) -> onnx.ModelProto:
    """Of the first member, which all of them share."""
    member = load_member(finished.members[0], finished.dataset)
    assert isinstance(member, NetworkMember)
    return runtimes.network_graph(member.network, finished.dataset.spec)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, graph: onnx.ModelProto) -> list[str]:
    """What was exported and timed, in order; the n-th of these takes n milliseconds."""
    done: list[str] = []

    def latency(answer: Callable[..., Any], rows: np.ndarray, runs: int) -> dict[str, float]:
        assert np.isfinite(answer(rows[:1])).all()
        done.append("timed")
        return {"latency_ms_p50": float(done.count("timed"))}

    def exported(*_: Any) -> onnx.ModelProto:
        done.append("exported")
        return graph

    monkeypatch.setattr(costs, "latency", latency)
    monkeypatch.setattr(costs, "network_graph", exported)
    return done


def test_all_models_run_in_onnxruntime_and_each_architecture_once(
    finished: FinishedChain, store: Store, clock: list[str]
) -> None:
    """golden: three copies of one network share a figure; two capacities and the ensemble have their own."""
    found = measured(finished, store)
    everything = [*found.teachers, *found.students.values(), found.uniform, found.ensemble]
    assert {model.runtime for model in everything} == {"onnxruntime"}
    assert [t.latency_ms_p50 for t in found.teachers] == [1.0] * 3
    assert [s.latency_ms_p50 for s in found.students.values()] == [2.0, 3.0]
    assert list(found.students) == ["small", "large"]
    assert found.uniform.latency_ms_p50 == 4.0
    assert clock.count("exported") == 1  # the capacities' graphs are those of their profiles
    assert clock.count("timed") in (4, 5)  # the ensemble in use may be the simple average


def test_costs_are_those_of_the_networks(finished: FinishedChain, store: Store, clock: list[str]) -> None:
    """reference: parameters by hand, those of capacities by their profiles; an ensemble is the sum of its members."""
    found = measured(finished, store)
    assert [t.params for t in found.teachers] == [EACH] * 3
    for profile in finished.profiles:
        mine = found.students[profile.name]
        assert {k: getattr(mine, k) for k in FACTS} == {k: profile.metrics[k] for k in FACTS}
    active = len(chosen(finished.ensemble).active)
    assert found.ensemble.params == EACH * active
    assert found.uniform.params == 3 * EACH


def test_a_network_that_cannot_be_exported_puts_all_into_torch(
    finished: FinishedChain,
    store: Store,
    clock: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """contract: students as well, so that they can be compared; the warning names the teacher and why."""

    def refuses(*_: Any) -> None:
        raise runtimes.NotExportable("it looks at its numbers")

    monkeypatch.setattr(costs, "network_graph", refuses)
    with caplog.at_level(logging.WARNING, "distillery.stages.evaluation.costs"):
        found = measured(finished, store)
    everything = [*found.teachers, *found.students.values(), found.uniform, found.ensemble]
    assert {model.runtime for model in everything} == {"torch"}
    assert "teacher 'mlp-00' cannot be exported" in caplog.text and "it looks at its numbers" in caplog.text


def test_other_weights_of_a_capacity_cost_the_same(finished: FinishedChain, store: Store, clock: list[str]) -> None:
    """determinism: a student that is trained again is not measured again."""
    measured(finished, store)
    students = [final.plain[0] for final in finished.finals]
    parts = (finished.members, students, finished.profiles, finished.ensemble, finished.data)
    assert measure_costs(*parts, 10, store).cached
