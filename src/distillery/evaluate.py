"""Stage `evaluation`: the test split is opened here, once. N rows, C classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distillery import metrics
from distillery.config import Evaluation
from distillery.dataset import Dataset
from distillery.ensemble import chosen, label, pool_logits
from distillery.logits import read_logits
from distillery.profile import cost, latency
from distillery.store import Handle, Store, fingerprint, write_json
from distillery.students import load_student
from distillery.teachers import GivenMember, Member, NetworkMember, load_member
from distillery.training.fit import predict

VERSION = 1


@dataclass(frozen=True)
class Rung:
    """One capacity's student and its baseline."""

    capacity: str
    student: Handle
    baseline: Handle


def evaluate(
    members: list[Handle],
    val_logits: list[Handle],
    test_logits: list[Handle],
    ensemble: Handle,
    rungs: list[Rung],
    chosen_capacity: str,
    data: Handle,
    config: Evaluation,
    store: Store,
) -> Handle:
    """``evaluation.json``: a row per model, gap recovery, recalls; ``test_logits.npz``: logits [N, C] by row name."""
    upstream = [h.fingerprint for h in [*members, *val_logits, *test_logits, ensemble, data]]
    finals = [[r.capacity, r.student.fingerprint, r.baseline.fingerprint] for r in rungs]
    key = [VERSION, config, upstream, finals, chosen_capacity]

    def build(work: Path) -> dict[str, Any]:
        return _Evaluator(members, val_logits, test_logits, ensemble, rungs, chosen_capacity, data, config).write(work)

    return store.stage("evaluation", "evaluation", key, build)


class _Evaluator:
    def __init__(
        self,
        members: list[Handle],
        val_logits: list[Handle],
        test_logits: list[Handle],
        ensemble: Handle,
        rungs: list[Rung],
        chosen_capacity: str,
        data: Handle,
        config: Evaluation,
    ) -> None:
        self.dataset, self.config = Dataset(data), config
        self.members, self.ensemble, self.rungs, self.chosen = members, ensemble, rungs, chosen_capacity
        rows = self.dataset.splits["test"]
        self.labels, self.inputs = self.dataset.labels("test"), self.dataset.inputs[rows]
        self.sample = self.inputs[:64]
        self.logits: dict[str, np.ndarray] = {}
        self.val_labels = self.dataset.labels("val_search")
        self.val_inputs = self.dataset.inputs[self.dataset.splits["val_search"]]
        self.member_logits = np.stack([read_logits(h) for h in test_logits])
        self.val_member_logits = np.stack([read_logits(h) for h in val_logits])
        self.rows: list[dict[str, Any]] = []

    def write(self, work: Path) -> dict[str, Any]:
        """Fills the stage directory and returns the chosen student's figures."""
        runners = self._teachers()
        reference = self._ensembles(runners)
        self._students(reference)
        recovery = self._recovery(reference)
        student = next(r for r in self.rows if r["role"] == "student" and r["chosen"])
        np.savez_compressed(work / "test_logits.npz", **self.logits)  # type: ignore[arg-type]
        write_json(
            work / "evaluation.json",
            {
                "rows": self.rows,
                "gap_recovery": recovery,
                "compression": self._compression(student),
                "ensemble": reference,
                "student": f"student {self.chosen}",
                "baseline": f"baseline {self.chosen}",
                "classes": self.dataset.classes,
                "test_rows": len(self.labels),
                "test_rows_digest": fingerprint(self.dataset.splits["test"].tolist()),
            },
        )
        return {k: student[k] for k in ("accuracy", "nll", "brier", "ece")}

    def _add(
        self, role: str, name: str, logits: np.ndarray, val_logits: np.ndarray, costs: dict[str, Any], **more: Any
    ) -> None:
        self.logits[f"{role} {name}"] = logits.astype(np.float32)
        recall = metrics.recall_by_class(logits, self.labels)
        figures = metrics.quality(logits, self.labels)
        on_val = metrics.quality(val_logits, self.val_labels)
        figures |= {"val_search_accuracy": on_val["accuracy"], "val_search_nll": on_val["nll"]}
        self.rows.append({"role": role, "name": name, **figures, **_complete(costs), **more, "recall": recall})

    def _teachers(self) -> list[Member]:
        opened = []
        for handle, logits, on_val in zip(self.members, self.member_logits, self.val_member_logits, strict=True):
            member = load_member(handle, self.dataset.spec)
            self._add("teacher", handle.name, logits, on_val, self._member_cost(handle, member))
            opened.append(member)
        return opened

    def _member_cost(self, handle: Handle, member: Member) -> dict[str, Any]:
        runs = self.config.latency_runs
        if isinstance(member, NetworkMember):
            return cost(member.network, self.dataset.spec, self.sample, runs)
        if isinstance(member, GivenMember):
            return {}
        size = handle.file("model.joblib").stat().st_size / 1e6
        return {"size_mb": size, **latency(lambda x: member.logits(x, x), self.sample, runs)}

    def _ensembles(self, opened: list[Member]) -> str:
        weights, pool = chosen(self.ensemble)
        count = len(opened)
        self._ensemble("uniform", np.full(count, 1 / count), "probs", opened)
        self._ensemble(label(self.ensemble), weights, pool, opened, chosen=True)
        return f"ensemble {label(self.ensemble)}"

    def _ensemble(self, name: str, weights: np.ndarray, pool: str, opened: list[Member], **more: Any) -> None:
        active = [i for i in range(len(opened)) if weights[i] > 0]
        parts = [self.rows[i] for i in active]
        costs: dict[str, Any] = {
            k: sum(p[k] for p in parts) if all(p[k] is not None for p in parts) else None
            for k in ("params", "macs", "size_mb")
        }
        if not any(isinstance(opened[i], GivenMember) for i in active):

            def run(rows: np.ndarray) -> np.ndarray:
                stacked = np.stack([opened[i].logits(rows, rows) for i in active])
                return pool_logits(stacked, weights[active], pool)

            costs |= latency(run, self.sample, max(10, self.config.latency_runs // 3))
        on_test, on_val = (pool_logits(z, weights, pool) for z in (self.member_logits, self.val_member_logits))
        self._add("ensemble", name, on_test, on_val, costs, **more)

    def _students(self, reference: str) -> None:
        for rung in self.rungs:
            for role, handle in (("baseline", rung.baseline), ("student", rung.student)):
                network = load_student(handle, self.dataset.spec)
                logits = predict(network, self.inputs, batch_size=self.config.batch_size)
                costs = cost(network, self.dataset.spec, self.sample, self.config.latency_runs)
                agreement = metrics.agreement(logits, self.logits[reference])
                is_chosen = role == "student" and rung.capacity == self.chosen
                on_val = predict(network, self.val_inputs, batch_size=self.config.batch_size)
                self._add(role, rung.capacity, logits, on_val, costs, agreement=agreement, chosen=is_chosen)

    def _recovery(self, reference: str) -> dict[str, Any]:
        names = (f"student {self.chosen}", f"baseline {self.chosen}", reference)
        settings = {"resamples": self.config.resamples, "confidence": self.config.confidence}
        found = {}
        for figure, per_row in (("accuracy", metrics.row_correct), ("nll", metrics.row_nll)):
            values = [per_row(self.logits[name], self.labels) for name in names]
            found[figure] = asdict(metrics.gap_recovery(*values, **settings))  # type: ignore[arg-type]
        return found

    def _compression(self, student: dict[str, Any]) -> dict[str, float | None]:
        whole = [r for r in self.rows if r["role"] == "ensemble"][-1]
        pairs = {"params": "params", "size": "size_mb", "macs": "macs", "latency": "latency_ms_p50"}
        return {k: whole[f] / student[f] if whole[f] and student[f] else None for k, f in pairs.items()}


def _complete(costs: dict[str, Any]) -> dict[str, Any]:
    names = ("params", "macs", "size_mb", "latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "throughput_per_s")
    return {name: costs.get(name) for name in names}
