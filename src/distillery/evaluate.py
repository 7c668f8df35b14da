"""Stage `evaluation`: the test split is opened here, once. N rows, C classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distillery import estimators, metrics
from distillery.comparisons import by_class, by_group, fidelity, gains, recoveries, reliabilities, worst_drop
from distillery.config import Evaluation
from distillery.data import Rows
from distillery.dataset import Dataset
from distillery.ensemble import chosen, label
from distillery.errors import InputError
from distillery.finals import Finals
from distillery.logits import read_logits
from distillery.members import GivenMember, Member, NetworkMember
from distillery.metrics import Interval
from distillery.pooling import Pooling
from distillery.profile import cost, latency
from distillery.registry import closest
from distillery.robustness import disturbances
from distillery.store import Handle, Store, write_json
from distillery.students import evaluate_on, load_student
from distillery.teachers import load_member
from distillery.training.alone import predict

VERSION = 3
COSTS = ("params", "macs", "size_mb", "latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "throughput_per_s")


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
    """

    members: list[Handle]
    val_logits: list[Handle]
    test_logits: list[Handle]
    ensemble: Handle
    finals: list[Finals]
    chosen: str
    data: Handle

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
    """``evaluation.json``: a row per model and all comparisons; ``test_logits.npz``: logits [N, C] by model.

    Args:
        inputs: What is judged.
        rows: The raw rows, for disturbances and groups.
        config: How.
        store: Where.
    """
    key = [VERSION, config, inputs.key()]
    return store.stage("evaluation", "evaluation", key, lambda work: _Evaluator(inputs, rows, config).write(work))


class _Evaluator:
    def __init__(self, inputs: Inputs, rows: Rows, config: Evaluation) -> None:
        self.given, self.config, self.raw = inputs, config, rows
        self.dataset = Dataset(inputs.data)
        self.ids = self.dataset.splits["test"]
        self.labels, self.inputs = self.dataset.labels("test"), self.dataset.inputs[self.ids]
        self.val_labels = self.dataset.labels("val_search")
        self.logits: dict[str, np.ndarray] = {}
        self.rows: list[dict[str, Any]] = []
        self.settings = {"resamples": config.resamples, "confidence": config.confidence}
        self.opened = [load_member(handle, self.dataset.spec) for handle in inputs.members]
        self.pooling = chosen(inputs.ensemble)
        self.ensemble = f"ensemble {label(inputs.ensemble)}"
        self.finals = next(f for f in inputs.finals if f.capacity == inputs.chosen)
        self.student = f"student {inputs.chosen}"
        self.baselines = {k: f"{k} baseline {inputs.chosen}" for k in ("plain", "tuned") if getattr(self.finals, k)}

    def write(self, work: Path) -> dict[str, Any]:
        """Fills the stage directory and returns the chosen student's figures."""
        member_logits = np.stack([read_logits(h) for h in self.given.test_logits])
        on_val = np.stack([read_logits(h) for h in self.given.val_logits])
        self._teachers(member_logits, on_val)
        self._ensembles(member_logits, on_val)
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
        self.logits[f"{role} {name}"] = logits.astype(np.float32)
        figures = metrics.quality(logits, self.labels)
        val = metrics.quality(on_val, self.val_labels)
        figures |= {"val_search_accuracy": val["accuracy"], "val_search_nll": val["nll"]}
        recall = metrics.recall_by_class(logits, self.labels)
        complete = {name: costs.get(name) for name in COSTS}
        self.rows.append({"role": role, "name": name, **figures, **complete, **more, "recall": recall})

    def _teachers(self, on_test: np.ndarray, on_val: np.ndarray) -> None:
        for index, handle in enumerate(self.given.members):
            self._add(
                "teacher", handle.name, on_test[index], on_val[index], self._member_cost(handle, self.opened[index])
            )

    def _member_cost(self, handle: Handle, member: Member) -> dict[str, Any]:
        runs, sample = self.config.latency_runs, self.inputs[:64]
        if isinstance(member, NetworkMember):
            return cost(member.network, self.dataset.spec, sample, runs)
        if isinstance(member, GivenMember):
            return {}
        size = estimators.size_mb(Path(handle.path))
        return {"size_mb": size, **latency(lambda x: member.logits(x, x), sample, runs)}

    def _ensembles(self, on_test: np.ndarray, on_val: np.ndarray) -> None:
        count = len(self.opened)
        candidates = {"ensemble uniform": Pooling(np.full(count, 1 / count), "probs"), self.ensemble: self.pooling}
        for name, pooling in candidates.items():
            logits, val = pooling.apply(on_test), pooling.apply(on_val)
            in_use = pooling is self.pooling
            self._add("ensemble", name.removeprefix("ensemble "), logits, val, self._pool_cost(pooling), chosen=in_use)

    def _pool_cost(self, pooling: Pooling) -> dict[str, Any]:
        parts = [self.rows[i] for i in pooling.active]
        costs: dict[str, Any] = {
            k: sum(p[k] for p in parts) if all(p[k] is not None for p in parts) else None
            for k in ("params", "macs", "size_mb")
        }
        if any(isinstance(self.opened[i], GivenMember) for i in pooling.active):
            return costs
        runs = max(10, self.config.latency_runs // 3)
        return costs | latency(lambda rows: self._pooled(pooling, rows), self.inputs[:64], runs)

    def _pooled(self, pooling: Pooling, rows: np.ndarray) -> np.ndarray:
        stacked = np.stack([self.opened[i].logits(rows, rows) for i in pooling.active])
        return pooling.narrowed().apply(stacked)

    def _students(self) -> None:
        for finals in self.given.finals:
            ours = finals.capacity == self.given.chosen
            for role in ("plain", "tuned", "student"):
                handles = finals.students if role == "student" else getattr(finals, role)
                if handles:
                    name = "student" if role == "student" else f"{role} baseline"
                    more = {"chosen": ours and role == "student"}
                    self._final(name, finals.capacity, handles[0], **more)

    def _final(self, role: str, capacity: str, handle: Handle, **more: Any) -> None:
        network = load_student(handle, self.dataset.spec)
        logits = predict(network, self.inputs, batch_size=self.config.batch_size)
        costs = cost(network, self.dataset.spec, self.inputs[:64], self.config.latency_runs)
        near = fidelity(logits, self.logits[self.ensemble], self.labels)
        val = evaluate_on(handle, self.dataset, "val_search", self.config.batch_size)
        trained = {k: v for k, v in handle.json("student.json").items() if k != "model"}
        self._add(role, capacity, logits, val, costs, **near, **more, trained=trained)

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
        against = z[self.baselines.get("tuned", self.baselines["plain"])]
        drop = worst_drop(student, against, labels, parts, self.config.confidence)
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
                    figures = metrics.quality(evaluate_on(handles[number], self.dataset, "test"), self.labels)
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
        table, parts = [], {}
        for column in self.config.groups:
            for value, places in by_group(self.raw.frame[column].iloc[self.ids].to_numpy()).items():
                parts[f"{column} = {value}"] = places
                shares = {k: float(c[places].mean()) for k, c in correct.items()}
                table.append({"column": column, "value": value, "rows": len(places), **shares})
        against = self.logits[self.baselines.get("tuned", self.baselines["plain"])]
        student = self.logits[self.student]
        worst = worst_drop(student, against, self.labels, parts, self.config.confidence)
        return {"table": table, "worst": asdict(worst)}

    def _robustness(self) -> list[dict[str, Any]]:
        """Accuracy of student and ensemble on disturbed rows, and the student's loss beyond the ensemble's."""
        count = min(self.config.robustness_rows, len(self.ids))
        if not count or any(isinstance(self.opened[i], GivenMember) for i in self.pooling.active):
            return []
        network = load_student(self.finals.students[0], self.dataset.spec)
        labels, places = self.labels[:count], slice(0, count)
        before = [metrics.row_correct(self.logits[k][places], labels) for k in (self.student, self.ensemble)]
        table = []
        for name, rows in disturbances(self.dataset, self.raw, self.ids[:count]).items():
            answers = (predict(network, rows), self._pooled(self.pooling, rows))
            after = [metrics.row_correct(z, labels) for z in answers]
            beyond = metrics.paired_difference(before[0] - after[0], before[1] - after[1], **self.settings)  # type: ignore[arg-type]
            shares = {k: float(v.mean()) for k, v in zip(("student", "ensemble"), after, strict=True)}
            table.append({"disturbance": name, "rows": count, **shares, "beyond_ensemble": asdict(beyond)})
        return table

    def _compression(self, student: dict[str, Any]) -> dict[str, float | None]:
        whole = self._row("ensemble", self.ensemble.removeprefix("ensemble "))
        pairs = {"params": "params", "size": "size_mb", "macs": "macs", "latency": "latency_ms_p50"}
        return {k: whole[f] / student[f] if whole[f] and student[f] else None for k, f in pairs.items()}


def _plain(tree: dict[str, dict[str, Interval]]) -> dict[str, dict[str, Any]]:
    return {outer: {k: asdict(v) for k, v in inner.items()} for outer, inner in tree.items()}
