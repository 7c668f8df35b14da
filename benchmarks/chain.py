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

from distillery import (
    cohorts,
    config_file,
    dataset,
    ensemble,
    evaluate,
    export,
    logits,
    quantized,
    report,
    search,
    students,
    teachers,
)
from distillery.config import Capacity, Experiment
from distillery.data import Rows
from distillery.finals import Promise, train_finals
from distillery.metrics import row_correct, row_nll
from distillery.page import page
from distillery.promotion import Decision, Outcome, decide, gate_figures
from distillery.store import Handle, Store, write_json
from distillery.students import Wanted


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
        profiles = [search.profile_capacity(c, self.data, runs, store) for c in config.student.capacities]
        members: list[Handle] = []
        for names, member in cohorts.in_one_go(config.teachers, self.data):
            recipe = config.teachers.recipe_of(member)
            members += teachers.train_teachers(names, member, recipe, config.seed, self.data, store)
        pooled = ensemble.optimize_weights(
            members, self.logits("val_ensemble", members), self.data, config.ensemble, store
        )
        taught = self.logits("transfer", [m for m in members if m.name in ensemble.active(pooled)])
        found = search.run_search(config, self.data, pooled, taught, profiles, store)
        alone = search.run_baseline_search(config, self.data, found, profiles, store)

        def students_of(capacity: Capacity, wanted: list[Wanted]) -> Promise:
            given = (capacity, wanted, config.student, self.data, pooled, taught, store)
            return partial(students.train_students, *given)

        def baselines_of(role: str, capacity: Capacity, wanted: list[Wanted]) -> Promise:
            return partial(students.train_baselines, capacity, wanted, config.student, self.data, store)

        finals = train_finals(config, self.data, found, alone, students_of, baselines_of)
        on_val, on_test = self.logits("val_search", members), self.logits("test", members)
        chosen = found.json("search.json")["chosen"]
        judged = evaluate.Inputs(members, on_val, on_test, pooled, finals, chosen, self.data, profiles)
        evaluation = evaluate.evaluate(judged, self.rows, config.evaluation, store)
        student = next(f.students[0] for f in finals if f.capacity == chosen)
        exported = export.export_student(student, self.data, self.rows, runs, store)
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
