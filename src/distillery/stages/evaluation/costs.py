"""Stage `costs`: what every model of an evaluation costs, measured side by side in one process."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import numpy as np
import onnx

from distillery.ops.pooling import Pooling
from distillery.stages.data.dataset import Dataset
from distillery.stages.ensemble.weight_selection import chosen
from distillery.stages.measurement.ensemble_graph import ensemble_graph
from distillery.stages.measurement.profile import cost, latency
from distillery.stages.measurement.record import Costs, Profile
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
from distillery.stages.students.student_files import load_student
from distillery.stages.teachers import member_files
from distillery.stages.teachers.member_files import load_member, model_of
from distillery.stages.teachers.members import EstimatorMember, FoldsMember, GivenMember, Member, NetworkMember
from distillery.store import Handle, Store
from distillery.store.record import Record

VERSION = 3
ROWS = 64  # encoded rows that are used in turn

log = logging.getLogger(__name__)


class CostTable(Record):
    """``costs.json``: what every model costs.

    Attributes:
        teachers: In the order of the members.
        students: Of one network of each capacity.
        uniform: Of the simple average of all members.
        ensemble: Of the ensemble in use.
    """

    FILE: ClassVar[str] = "costs.json"

    schema_version: Literal[1] = 1
    teachers: list[Costs]
    students: dict[str, Costs]
    uniform: Costs
    ensemble: Costs


def measure_costs(
    members: Sequence[Handle],
    students: Sequence[Handle],
    profiles: Sequence[Handle],
    ensemble: Handle,
    data: Handle,
    runs: int,
    store: Store,
) -> Handle:
    """``costs.json``; see `CostTable`.

    All networks run in onnxruntime; where one cannot be exported, all of them in torch. Estimators run in scikit-learn.
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

    def build(work: Path) -> dict[str, float]:
        _Measurement(members, students, profiles, ensemble, Dataset(data), runs).table().write(work)
        return {}

    return store.stage("costs", ensemble.name, key, build)


class _Measurement:
    def __init__(
        self,
        members: Sequence[Handle],
        students: Sequence[Handle],
        profiles: Sequence[Handle],
        ensemble: Handle,
        dataset: Dataset,
        runs: int,
    ) -> None:
        self.handles = members
        self.students = students
        self.profiles = profiles
        self.pooling = chosen(ensemble)
        self.dataset = dataset
        self.spec = dataset.spec
        self.runs = runs
        self.rows = np.asarray(dataset.inputs[dataset.splits["val_search"][:ROWS]])
        self.members: list[Member] = [load_member(handle, dataset) for handle in members]
        self.kinds = [_architecture(handle) for handle in members]

    def table(self) -> CostTable:
        """Measures every model."""
        graphs = self._graphs()
        teachers = self._teachers(graphs)
        students = {profile.name: self._student(index, graphs) for index, profile in enumerate(self.profiles)}
        uniform, ensemble = self._ensembles(teachers, graphs)
        return CostTable(teachers=teachers, students=students, uniform=uniform, ensemble=ensemble)

    def _graphs(self) -> dict[str, onnx.ModelProto] | None:
        """The graph of each architecture among the teachers' networks; None where one of them cannot be exported."""
        graphs: dict[str, onnx.ModelProto] = {}
        for handle, kind, member in zip(self.handles, self.kinds, self.members, strict=True):
            model = _one_model(member)
            if not isinstance(model, NetworkMember) or kind in graphs:
                continue
            try:
                graphs[kind] = network_graph(model.network, self.spec)
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
        if isinstance(member, FoldsMember):
            models = [self._model_runner(model, place, graphs) for model in member.models]
            return pooled(models, Pooling(np.full(len(models), 1 / len(models)), "probs"))
        return self._model_runner(member, place, graphs)

    def _model_runner(self, model: Member, place: int, graphs: dict[str, onnx.ModelProto] | None) -> Runner:
        if isinstance(model, EstimatorMember):
            return in_scikit_learn(model)
        assert isinstance(model, NetworkMember)
        return in_torch(model.network) if graphs is None else in_onnxruntime(graphs[self.kinds[place]])

    def _teachers(self, graphs: dict[str, onnx.ModelProto] | None) -> list[Costs]:
        """Costs of every member; networks of one architecture are measured once."""
        costs: list[Costs] = []
        by_kind: dict[str, Costs] = {}
        for place, member in enumerate(self.members):
            if isinstance(member, GivenMember):
                costs.append(Costs())
                continue
            model = _one_model(member)
            if isinstance(model, EstimatorMember):
                size_mb = member_files.size_mb(self.handles[place], self.dataset)
                costs.append(self._timed(self._runner(place, graphs), Costs(size_mb=size_mb)))
                continue
            assert isinstance(model, NetworkMember)
            kind = self.kinds[place]
            if kind not in by_kind:
                facts = _times(_count(member), Costs(**cost(model.network, self.spec)))
                by_kind[kind] = self._timed(self._runner(place, graphs), facts)
            costs.append(by_kind[kind])
        return costs

    def _student(self, place: int, graphs: dict[str, onnx.ModelProto] | None) -> Costs:
        handle = self.profiles[place]
        profile = Profile.model_validate(handle.metrics)
        if graphs is None:
            runner = in_torch(load_student(self.students[place], self.spec))
        else:
            runner = in_onnxruntime(handle.file(GRAPH))
        facts = Costs(params=profile.params, macs=profile.macs, size_mb=profile.size_mb)
        return self._timed(runner, facts)

    def _ensembles(self, teachers: list[Costs], graphs: dict[str, onnx.ModelProto] | None) -> tuple[Costs, Costs]:
        """Of the simple average and of the ensemble in use; measured once where they do the same work."""
        count = len(self.members)
        average = Pooling(np.full(count, 1 / count), "probs")
        uniform = self._ensemble(average, teachers, graphs)
        same = self.pooling.pool == "probs" and self.pooling.weights.ndim == 1 and len(self.pooling.active) == count
        return uniform, uniform if same else self._ensemble(self.pooling, teachers, graphs)

    def _ensemble(self, pooling: Pooling, teachers: list[Costs], graphs: dict[str, onnx.ModelProto] | None) -> Costs:
        """The sums of the active members' facts, and the latency of all of them with the pool."""
        parts = [teachers[place] for place in pooling.active]
        facts = _summed(parts)
        if any(isinstance(self.members[place], GivenMember) for place in pooling.active):
            return facts
        return self._timed(self._together(pooling, graphs), facts, max(10, self.runs // 3))

    def _together(self, pooling: Pooling, graphs: dict[str, onnx.ModelProto] | None) -> Runner:
        """An ensemble, ready to answer: one graph where all its members have one, else one after another."""
        active = pooling.active
        alone = not any(isinstance(self.members[place], FoldsMember) for place in active)
        if graphs is not None and alone and all(self.kinds[place] in graphs for place in active):
            whole = ensemble_graph([graphs[self.kinds[place]] for place in active], pooling)
            if whole is not None:
                return in_onnxruntime(whole)
        return pooled([self._runner(place, graphs) for place in active], pooling)

    def _timed(self, runner: Runner, facts: Costs, runs: int | None = None) -> Costs:
        """The facts with the latency of a model in its runtime."""
        times = latency(runner.answer, self.rows, runs or self.runs)
        return facts.model_copy(update={**times, "runtime": runner.runtime})


Number = TypeVar("Number", int, float)


def _sum(values: Iterable[Number | None]) -> Number | None:
    """The sum; None where a part is not known."""
    known = list(values)
    total = known[0]
    for value in known[1:]:
        if total is None or value is None:
            return None
        total += value
    return total


def _one_model(member: Member) -> Member:
    """A member, or one of its folds' models, which are alike."""
    return member.models[0] if isinstance(member, FoldsMember) else member


def _count(member: Member) -> int:
    return len(member.models) if isinstance(member, FoldsMember) else 1


def _times(count: int, facts: Costs) -> Costs:
    """What several models of one architecture cost, but their time."""
    return _summed([facts] * count)


def _summed(parts: Sequence[Costs]) -> Costs:
    return Costs(
        params=_sum(part.params for part in parts),
        macs=_sum(part.macs for part in parts),
        size_mb=_sum(part.size_mb for part in parts),
    )


def _architecture(member: Handle) -> str:
    """What tells a member's network from one with other layers: its config without name, weights and recipe."""
    model = model_of(member)
    own = {k: v for k, v in model.items() if k not in ("name", "copies", "recipe", "checkpoint", "pretrained")}
    return json.dumps(own, sort_keys=True)
