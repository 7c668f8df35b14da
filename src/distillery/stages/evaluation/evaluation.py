"""Stage `evaluation`: all models on the test split, which no stage before has opened. N rows, C classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distillery.config.experiment import Evaluation
from distillery.errors import InputError
from distillery.ops import metrics
from distillery.ops.metrics import Interval
from distillery.ops.pooling import Pooling
from distillery.ops.sampling import covering_sample
from distillery.registry import closest
from distillery.sources import Rows
from distillery.stages.data.dataset import Dataset
from distillery.stages.ensemble.weight_selection import chosen, label
from distillery.stages.evaluation.comparisons import (
    accuracy_by_group,
    by_class,
    fidelity,
    gains,
    recoveries,
    reliabilities,
    worst_drop,
)
from distillery.stages.evaluation.costs import FACTS, measure_costs
from distillery.stages.evaluation.model_logits import ensemble_logits, student_logits
from distillery.stages.evaluation.robustness import Answers, disturbed_answers, losses
from distillery.stages.logits.logit_cache import read_logits
from distillery.stages.students.final_models import FinalModels
from distillery.stages.students.student_training import load_student
from distillery.stages.teachers.members import GivenMember
from distillery.stages.teachers.teacher_training import load_member
from distillery.store import Handle, Store, write_json
from distillery.training.single import predict

VERSION = 4
COSTS = (*FACTS, "latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "throughput_per_s", "runtime")


@dataclass(frozen=True)
class Inputs:
    """Everything that is judged.

    Attributes:
        members: Stage `teachers`, all of them.
        val_logits: Their logits on val_search.
        test_logits: Their logits on test.
        ensemble: Stage `ensemble`.
        finals: Per capacity.
        chosen: The capacity to ship.
        data: Stage `data`.
        profiles: Stage `profile` of each capacity.
    """

    members: list[Handle]
    val_logits: list[Handle]
    test_logits: list[Handle]
    ensemble: Handle
    finals: list[FinalModels]
    chosen: str
    data: Handle
    profiles: list[Handle]

    def key(self) -> list[Any]:
        """What tells these from others."""
        handles = [*self.members, *self.val_logits, *self.test_logits, self.ensemble, self.data]
        return [[h.fingerprint for h in handles], [f.key() for f in self.finals], self.chosen]


def check_groups(groups: tuple[str, ...], rows: Rows) -> None:
    """Refuses groups that the data do not have.

    Raises:
        InputError: A group is not a column of the table.
    """
    columns = [] if rows.frame is None else [str(c) for c in rows.frame.columns]
    for name in groups:
        if name not in columns:
            raise InputError(f"evaluation.groups: {closest(name, columns)}")


def evaluate(inputs: Inputs, rows: Rows, config: Evaluation, store: Store) -> Handle:
    """``evaluation.json``: a row per model and all comparisons; ``test_logits.npz``: logits [N, C] of those compared.

    These are the chosen student, its baselines and the ensemble in use, by role and name.

    Args:
        inputs: What is judged.
        rows: The raw rows, for disturbances and groups.
        config: How.
        store: Where.
    """
    key = [VERSION, config, inputs.key()]

    def build(work: Path) -> dict[str, Any]:
        return _Evaluator(inputs, rows, config, _costs(inputs, config, store)).write(work)

    return store.stage("evaluation", "evaluation", key, build)


def _costs(inputs: Inputs, config: Evaluation, store: Store) -> dict[str, Any]:
    """What every model costs; see `measure_costs`."""
    profiles = {handle.name: handle for handle in inputs.profiles}
    students = [final.students[0] for final in inputs.finals]
    mine = [profiles[final.capacity] for final in inputs.finals]
    parts = (inputs.members, students, mine, inputs.ensemble, inputs.data)
    found: dict[str, Any] = measure_costs(*parts, config.latency_runs, store).json("costs.json")
    return found


class _Evaluator:
    def __init__(self, inputs: Inputs, rows: Rows, config: Evaluation, costs: dict[str, Any]) -> None:
        self.given, self.config, self.raw, self.costs = inputs, config, rows, costs
        self.dataset = Dataset(inputs.data)
        self.ids = self.dataset.splits["test"]
        self.labels, self.val_labels = self.dataset.labels("test"), self.dataset.labels("val_search")
        self.logits: dict[str, np.ndarray] = {}
        self.rows: list[dict[str, Any]] = []
        self.settings = {"resamples": config.resamples, "confidence": config.confidence}
        self.opened = [load_member(handle, self.dataset.spec) for handle in inputs.members]
        self.pooling = chosen(inputs.ensemble)
        self.ensemble = f"ensemble {label(inputs.ensemble)}"
        self.finals = next(f for f in inputs.finals if f.capacity == inputs.chosen)
        self.student = f"student {inputs.chosen}"
        self.baselines = {k: f"{k} baseline {inputs.chosen}" for k in ("plain", "tuned") if getattr(self.finals, k)}
        self.compared = (self.ensemble, self.student, *self.baselines.values())

    def write(self, work: Path) -> dict[str, Any]:
        """Fills the stage directory and returns the chosen student's figures."""
        self._teachers()
        self._ensembles()
        self._students()
        student = self._row("student", self.given.chosen)
        content = {
            "rows": self.rows,
            "ensemble": self.ensemble,
            "student": self.student,
            "baselines": self.baselines,
            "classes": self.dataset.classes,
            "test_rows": len(self.labels),
            "test_rows_digest": self.dataset.digest("test"),
            **self._comparisons(),
            "seeds": self._seeds(),
            "groups": self._groups(),
            "robustness": self._robustness(),
            "compression": self._compression(student),
        }
        write_json(work / "evaluation.json", content)
        np.savez(work / "test_logits.npz", **self.logits)  # type: ignore[arg-type]
        return {k: student[k] for k in ("accuracy", "nll", "brier", "ece")}

    def _row(self, role: str, name: str) -> dict[str, Any]:
        return next(r for r in self.rows if r["role"] == role and r["name"] == name)

    def _add(
        self, role: str, name: str, logits: np.ndarray, on_val: np.ndarray, costs: dict[str, Any], **more: Any
    ) -> None:
        if f"{role} {name}" in self.compared:
            self.logits[f"{role} {name}"] = logits
        figures = metrics.quality(logits, self.labels)
        val = metrics.quality(on_val, self.val_labels)
        figures |= {"val_search_accuracy": val["accuracy"], "val_search_nll": val["nll"]}
        recall = metrics.recall_by_class(logits, self.labels)
        complete = {name: costs.get(name) for name in COSTS}
        self.rows.append({"role": role, "name": name, **figures, **complete, **more, "recall": recall})

    def _teachers(self) -> None:
        for place, handle in enumerate(self.given.members):
            on_test, on_val = (read_logits(h[place]) for h in (self.given.test_logits, self.given.val_logits))
            self._add("teacher", handle.name, on_test, on_val, self.costs["teachers"][place])

    def _ensembles(self) -> None:
        count = len(self.opened)
        uniform = Pooling(np.full(count, 1 / count), "probs")
        for name, pooling, kind in (
            ("uniform", uniform, "uniform"),
            (self.ensemble.removeprefix("ensemble "), self.pooling, "chosen"),
        ):
            on_test, on_val = (ensemble_logits(pooling, h) for h in (self.given.test_logits, self.given.val_logits))
            self._add("ensemble", name, on_test, on_val, self.costs["ensembles"][kind], chosen=kind == "chosen")

    def _students(self) -> None:
        for finals in self.given.finals:
            for role, handles in (
                ("plain baseline", finals.plain),
                ("tuned baseline", finals.tuned),
                ("student", finals.students),
            ):
                if handles:
                    self._final(role, finals.capacity, handles[0])

    def _final(self, role: str, capacity: str, handle: Handle) -> None:
        on_test, on_val = (self._answers(handle, split) for split in ("test", "val_search"))
        near = fidelity(on_test, self.logits[self.ensemble], self.labels)
        more = {"chosen": (role, capacity) == ("student", self.given.chosen)}
        trained = {k: v for k, v in handle.json("student.json").items() if k != "model"}
        self._add(role, capacity, on_test, on_val, self.costs["students"][capacity], **near, **more, trained=trained)

    def _answers(self, student: Handle, split: str) -> np.ndarray:
        return student_logits(student, self.dataset, split, self.config.batch_size)

    def _comparisons(self) -> dict[str, Any]:
        z, labels, student = self.logits, self.labels, self.logits[self.student]
        others = {"ensemble": self.ensemble, **{f"{k}_baseline": name for k, name in self.baselines.items()}}
        held = {k: z[name] for k, name in others.items()}
        found = {k: gains(student, logits, labels, **self.settings) for k, logits in held.items()}  # type: ignore[arg-type]
        recovery = {
            k: recoveries(student, z[name], z[self.ensemble], labels, **self.settings)  # type: ignore[arg-type]
            for k, name in self.baselines.items()
        }
        parts = {name: np.flatnonzero(labels == number) for number, name in enumerate(self.dataset.classes)}
        drop = worst_drop(student, self._rival(), labels, parts, self.config.confidence)
        return {
            "gains": _plain(found),
            "gap_recovery": _plain(recovery),
            "worst_class_drop": asdict(drop),
            "by_class": by_class(student, held, labels, self.dataset.classes, self.config.confidence),
            "reliability": reliabilities({"student": student, **held}, labels),
            "optimism": self._optimism(found),
        }

    def _optimism(self, found: dict[str, dict[str, Interval]]) -> dict[str, Any]:
        """The winner's curse: the gain on the rows that chose the setting beside the gain on rows that did not."""
        rival = "tuned" if "tuned" in self.baselines else "plain"
        student, other = self._row("student", self.given.chosen), self._row(f"{rival} baseline", self.given.chosen)
        on_val = other["val_search_nll"] - student["val_search_nll"]
        on_test = found[f"{rival}_baseline"]["nll"]
        assert on_test.high is not None
        return {"val_search": on_val, "test": asdict(on_test), "shrank": on_val > on_test.high}

    def _seeds(self) -> list[dict[str, float]]:
        """Accuracy and NLL on test of the chosen capacity's networks, one record per seed."""
        found = []
        for number in range(len(self.finals.students)):
            record: dict[str, float] = {}
            for role in ("students", "plain", "tuned"):
                handles = getattr(self.finals, role)
                if number < len(handles):
                    figures = metrics.quality(self._answers(handles[number], "test"), self.labels)
                    record |= {f"{role}_{k}": figures[k] for k in ("accuracy", "nll")}
            found.append(record)
        return found

    def _groups(self) -> dict[str, Any]:
        """Accuracy by value of each declared column, and the worst fall below the tuned baseline."""
        if not self.config.groups:
            return {}
        assert self.raw.frame is not None
        names = {"student": self.student, "ensemble": self.ensemble, **self.baselines}
        correct = {k: metrics.row_correct(self.logits[name], self.labels) for k, name in names.items()}
        table, parts = accuracy_by_group(self.raw.frame[list(self.config.groups)].iloc[self.ids], correct)
        worst = worst_drop(self.logits[self.student], self._rival(), self.labels, parts, self.config.confidence)
        return {"table": table, "worst": asdict(worst)}

    def _rival(self) -> np.ndarray:
        """Logits [N, C] of the tuned baseline, or of the plain one where that is all there is."""
        return self.logits[self.baselines.get("tuned", self.baselines["plain"])]

    def _robustness(self) -> list[dict[str, Any]]:
        """Accuracy of student and ensemble on disturbed rows, and the student's loss beyond the ensemble's.

        The rows are drawn at random from test, always the same ones, with every class among them.
        """
        places = covering_sample(self.labels, self.config.robustness_rows)
        if not len(places) or any(isinstance(self.opened[i], GivenMember) for i in self.pooling.active):
            return []
        names = {"student": self.student, "ensemble": self.ensemble}
        before = {k: self.logits[name][places] for k, name in names.items()}
        after = disturbed_answers(self.dataset, self.raw, self.ids[places], self._models())
        return losses(before, after, self.labels[places], **self.settings)  # type: ignore[arg-type]

    def _models(self) -> dict[str, Answers]:
        """Student and ensemble as functions of encoded rows and their ids."""
        network, pooling = load_student(self.finals.students[0], self.dataset.spec), self.pooling.narrowed()
        members = [self.opened[place] for place in self.pooling.active]

        def ensemble(inputs: np.ndarray, ids: np.ndarray) -> np.ndarray:
            return pooling.apply(np.stack([member.logits(inputs, ids) for member in members]))

        return {"student": lambda inputs, _: predict(network, inputs), "ensemble": ensemble}

    def _compression(self, student: dict[str, Any]) -> dict[str, float | None]:
        whole = self._row("ensemble", self.ensemble.removeprefix("ensemble "))
        pairs = {"params": "params", "size": "size_mb", "macs": "macs", "latency": "latency_ms_p50"}
        return {k: whole[f] / student[f] if whole[f] and student[f] else None for k, f in pairs.items()}


def _plain(tree: dict[str, dict[str, Interval]]) -> dict[str, dict[str, Any]]:
    return {outer: {k: asdict(v) for k, v in inner.items()} for outer, inner in tree.items()}
