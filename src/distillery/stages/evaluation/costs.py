"""Stage `costs`: what every model of an evaluation costs, measured side by side in one process."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from distillery.ops.pooling import Pooling
from distillery.stages.data.dataset import Dataset
from distillery.stages.ensemble.weight_selection import chosen
from distillery.stages.measurement.ensemble_graph import ensemble_graph
from distillery.stages.measurement.profile import cost, latency
from distillery.stages.measurement.runtimes import (
    NotExportable,
    Runner,
    in_onnxruntime,
    in_scikit_learn,
    in_torch,
    network_graph,
    pooled,
)
from distillery.stages.search.student_search import GRAPH
from distillery.stages.students.student_training import load_student
from distillery.stages.teachers import estimator_files
from distillery.stages.teachers.members import EstimatorMember, GivenMember, Member, NetworkMember
from distillery.stages.teachers.teacher_training import load_member, model_of
from distillery.store import Handle, Store, write_json

VERSION = 1
ROWS = 64  # encoded rows that are used in turn
FACTS = ("params", "macs", "size_mb")

log = logging.getLogger(__name__)


def measure_costs(
    members: Sequence[Handle],
    students: Sequence[Handle],
    profiles: Sequence[Handle],
    ensemble: Handle,
    data: Handle,
    runs: int,
    store: Store,
) -> Handle:
    """``costs.json``: `teachers`, a list; `students` by capacity; `ensembles`, ``uniform`` and ``chosen``.

    Each holds params, macs, size_mb, latency at batch 1 in ms, rows per second, and the `runtime` that ran it. All
    networks run in onnxruntime; where one cannot be exported, all of them in torch. Estimators run in scikit-learn.
    An ensemble of networks is one graph; one with estimators is its members one after another. Networks of one
    architecture are measured once. What is not known, as the latency of given logits, is left out.

    Args:
        members: Stage `teachers`, all of them.
        students: One network of each capacity.
        profiles: Stage `profile` of the same capacities, in the same order.
        ensemble: Stage `ensemble`.
        data: Stage `data`.
        runs: Timed calls of each model.
        store: Where.
    """
    handles = [*members, *profiles, ensemble]  # a capacity costs the same whatever its weights
    key = [VERSION, [handle.fingerprint for handle in handles], runs, Dataset(data).spec.to_json()]

    def build(work: Path) -> dict[str, Any]:
        content = _Costs(members, students, profiles, ensemble, Dataset(data), runs).measured()
        write_json(work / "costs.json", content)
        return {}

    return store.stage("costs", ensemble.name, key, build)


class _Costs:
    def __init__(
        self,
        members: Sequence[Handle],
        students: Sequence[Handle],
        profiles: Sequence[Handle],
        ensemble: Handle,
        dataset: Dataset,
        runs: int,
    ) -> None:
        self.handles, self.students, self.profiles = members, students, profiles
        self.pooling, self.spec, self.runs = chosen(ensemble), dataset.spec, runs
        self.rows = np.asarray(dataset.inputs[dataset.splits["val_search"][:ROWS]])
        self.members: list[Member] = [load_member(handle, dataset.spec) for handle in members]
        self.kinds = [_architecture(handle) for handle in members]

    def measured(self) -> dict[str, Any]:
        """The content of ``costs.json``."""
        graphs = self._graphs()
        teachers = self._teachers(graphs)
        return {
            "teachers": teachers,
            "students": {p.name: self._student(place, graphs) for place, p in enumerate(self.profiles)},
            "ensembles": self._ensembles(teachers, graphs),
        }

    def _graphs(self) -> dict[str, onnx.ModelProto] | None:
        """The graph of each architecture among the teachers' networks; None where one of them cannot be exported."""
        graphs: dict[str, onnx.ModelProto] = {}
        for handle, kind, member in zip(self.handles, self.kinds, self.members, strict=True):
            if not isinstance(member, NetworkMember) or kind in graphs:
                continue
            try:
                graphs[kind] = network_graph(member.network, self.spec)
            except NotExportable as error:
                log.warning(
                    "latency: teacher %r cannot be exported to ONNX, so all networks are timed in torch: %s",
                    handle.name,
                    error,
                )
                return None
        return graphs

    def _runner(self, place: int, graphs: dict[str, onnx.ModelProto] | None) -> Runner:
        """A member, ready to answer."""
        member = self.members[place]
        if isinstance(member, EstimatorMember):
            return in_scikit_learn(member)
        assert isinstance(member, NetworkMember)
        return in_torch(member.network) if graphs is None else in_onnxruntime(graphs[self.kinds[place]])

    def _teachers(self, graphs: dict[str, onnx.ModelProto] | None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        by_kind: dict[str, dict[str, Any]] = {}
        for place, member in enumerate(self.members):
            kind = self.kinds[place]
            if isinstance(member, GivenMember):
                found.append({})
                continue
            if isinstance(member, EstimatorMember):
                size = estimator_files.size_mb(Path(self.handles[place].path))
                found.append({"size_mb": size, **self._timed(self._runner(place, graphs))})
                continue
            assert isinstance(member, NetworkMember)
            if kind not in by_kind:
                by_kind[kind] = cost(member.network, self.spec) | self._timed(self._runner(place, graphs))
            found.append(by_kind[kind])
        return found

    def _student(self, place: int, graphs: dict[str, onnx.ModelProto] | None) -> dict[str, Any]:
        profile = self.profiles[place]
        if graphs is None:
            runner = in_torch(load_student(self.students[place], self.spec))
        else:
            runner = in_onnxruntime(profile.file(GRAPH))
        return {k: profile.metrics[k] for k in FACTS} | self._timed(runner)

    def _ensembles(
        self, teachers: list[dict[str, Any]], graphs: dict[str, onnx.ModelProto] | None
    ) -> dict[str, dict[str, Any]]:
        """Of the simple average and of the ensemble in use; measured once where they do the same work."""
        count = len(self.members)
        uniform = Pooling(np.full(count, 1 / count), "probs")
        found = {"uniform": self._ensemble(uniform, teachers, graphs)}
        same = self.pooling.pool == "probs" and self.pooling.weights.ndim == 1 and len(self.pooling.active) == count
        found["chosen"] = found["uniform"] if same else self._ensemble(self.pooling, teachers, graphs)
        return found

    def _ensemble(
        self, pooling: Pooling, teachers: list[dict[str, Any]], graphs: dict[str, onnx.ModelProto] | None
    ) -> dict[str, Any]:
        """The sum of the active members' facts, and the latency of all of them with the pool."""
        parts = [teachers[place] for place in pooling.active]
        known = [name for name in FACTS if all(name in part for part in parts)]
        facts = {name: sum(part[name] for part in parts) for name in known}
        if any(isinstance(self.members[place], GivenMember) for place in pooling.active):
            return facts
        return facts | self._timed(self._together(pooling, graphs), max(10, self.runs // 3))

    def _together(self, pooling: Pooling, graphs: dict[str, onnx.ModelProto] | None) -> Runner:
        """An ensemble, ready to answer: one graph where all its members have one, else one after another."""
        active = pooling.active
        if graphs is not None and all(self.kinds[place] in graphs for place in active):
            whole = ensemble_graph([graphs[self.kinds[place]] for place in active], pooling)
            if whole is not None:
                return in_onnxruntime(whole)
        return pooled([self._runner(place, graphs) for place in active], pooling)

    def _timed(self, runner: Runner, runs: int | None = None) -> dict[str, Any]:
        return {**latency(runner.answer, self.rows, runs or self.runs), "runtime": runner.runtime}


def _architecture(member: Handle) -> str:
    """What tells a member's network from one with other layers: its config without name, weights and recipe."""
    model = model_of(member)
    own = {k: v for k, v in model.items() if k not in ("name", "copies", "recipe", "checkpoint", "pretrained")}
    return json.dumps(own, sort_keys=True)
