"""A whole experiment with the library alone: no orchestrator, no tracker, one process.

    python benchmarks/chain.py CONFIG HOME [key=value ...]

The same stages as flows/pipeline.py, with its report and the decision about promotion, for which there is no earlier
champion.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distillery.config import config_file
from distillery.config.experiment import Capacity, Experiment
from distillery.ops.metrics import row_correct, row_nll
from distillery.sources import Rows
from distillery.stages.data import dataset
from distillery.stages.ensemble import weight_selection
from distillery.stages.evaluation import evaluation as evaluate
from distillery.stages.export import onnx_model, quantized
from distillery.stages.logits import logit_cache as logits
from distillery.stages.promotion.decision import Decision, Outcome, decide, gate_figures
from distillery.stages.report import assembly as report
from distillery.stages.report.page import page
from distillery.stages.search import student_search
from distillery.stages.students import student_training
from distillery.stages.students.final_models import Promise, train_finals
from distillery.stages.students.student_training import Wanted
from distillery.stages.teachers import groups, teacher_training
from distillery.store import Handle, Store, write_json


class Chain:
    """One experiment in one store."""

    def __init__(self, config: Experiment, store: Store) -> None:
        self.config, self.store = config, store
        self.rows: Rows = dataset.read_source(config.data)
        self.data = dataset.prepare(config.data, self.rows, store)

    def run(self) -> Decision:
        """Everything from teachers to the decision."""
        config, store, began = self.config, self.store, time.perf_counter()
        runs = config.evaluation.latency_runs
        profiles = [student_search.profile_capacity(c, self.data, runs, store) for c in config.student.capacities]
        members: list[Handle] = []
        for names, member in groups.in_one_go(config.teachers, self.data):
            recipe = config.teachers.recipe_of(member)
            members += teacher_training.train_teachers(names, member, recipe, config.seed, self.data, store)
        pooled = weight_selection.optimize_weights(
            members, self.logits("val_ensemble", members), self.data, config.ensemble, store
        )
        taught = self.logits("transfer", [m for m in members if m.name in weight_selection.active(pooled)])
        found = student_search.run_search(config, self.data, pooled, taught, profiles, store)
        alone = student_search.run_baseline_search(config, self.data, found, profiles, store)

        def students_of(capacity: Capacity, wanted: list[Wanted]) -> Promise:
            given = (capacity, wanted, config.student, self.data, pooled, taught, store)
            return partial(student_training.train_students, *given)

        def baselines_of(role: str, capacity: Capacity, wanted: list[Wanted]) -> Promise:
            return partial(student_training.train_baselines, capacity, wanted, config.student, self.data, store)

        finals = train_finals(config, self.data, found, alone, students_of, baselines_of)
        on_val, on_test = self.logits("val_search", members), self.logits("test", members)
        chosen = found.json("search.json")["chosen"]
        judged = evaluate.Inputs(members, on_val, on_test, pooled, finals, chosen, self.data, profiles)
        evaluation = evaluate.evaluate(judged, self.rows, config.evaluation, store)
        student = next(f.students[0] for f in finals if f.capacity == chosen)
        exported = onnx_model.export_student(student, self.data, self.rows, runs, store)
        quantized.measure_served(exported, self.data, self.rows, runs, store)
        decision = self.decision(evaluation, exported)
        self.report((self.data, pooled, found, alone, evaluation, exported), decision, members, began)
        return decision

    def report(self, stages: tuple[Handle, ...], decision: Decision, handles: list[Handle], began: float) -> None:
        """The report's file and page."""
        gates = [asdict(gate) for gate in decision.gates]
        promotion = {"promoted": decision.promoted, "version": 1, "reasons": decision.reasons, "gates": gates}
        seconds = time.perf_counter() - began
        tree = report.assemble(self.config, *stages, promotion, [*stages, *handles], seconds)
        write_json(self.store.root / "report.json", tree)
        (self.store.root / "report.html").write_text(page({**tree, "price_per_hour": None}))

    def logits(self, split: str, members: list[Handle]) -> list[Handle]:
        """The members' logits on a split."""
        views: dict[str, Any] = {"views": self.config.student.views} if split == "transfer" else {}
        return [logits.cache_logits(m, split, self.data, self.config.logits, self.store, **views) for m in members]

    def decision(self, evaluation: Handle, exported: Handle) -> Decision:
        """Whether the gates would let the student pass."""
        content, labels = evaluation.json("evaluation.json"), dataset.Dataset(self.data).labels("test")
        with np.load(evaluation.file("test_logits.npz")) as arrays:
            found = arrays[content["student"]]
        outcome = Outcome("student", row_nll(found, labels), row_correct(found, labels))
        kept = self.config.evaluation
        figures = gate_figures(content, exported.metrics)
        rules = self.config.gates
        return decide(rules, figures, outcome, None, resamples=kept.resamples, confidence=kept.confidence)


def main() -> None:
    """Runs a config in a folder and prints the decision."""
    config, home, *overrides = sys.argv[1:]
    decision = Chain(config_file.load(config, overrides), Store(Path(home) / ".distillery")).run()
    print("promoted" if decision.promoted else "rejected", *decision.reasons)


if __name__ == "__main__":
    main()
