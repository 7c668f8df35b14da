"""A whole experiment with the library alone: no orchestrator, no tracker, one process.

    python benchmarks/chain.py CONFIG HOME [key=value ...]

The same stages as flows/pipeline.py, up to the decision about promotion, for which there is no earlier champion.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from distillery import config_file, dataset, ensemble, evaluate, export, logits, search, students, teachers
from distillery.config import Capacity, Experiment
from distillery.data import Rows
from distillery.metrics import row_correct, row_nll
from distillery.promotion import Decision, Outcome, decide, gate_figures
from distillery.space import Setting
from distillery.store import Handle, Store


class Chain:
    """One experiment in one store."""

    def __init__(self, config: Experiment, store: Store) -> None:
        self.config, self.store = config, store
        self.rows: Rows = dataset.read_source(config.data)
        self.data = dataset.prepare(config.data, self.rows, store)

    def run(self) -> Decision:
        """Everything from teachers to the decision."""
        config, store = self.config, self.store
        runs = config.evaluation.latency_runs
        profiles = [search.profile_capacity(c, self.data, runs, store) for c in config.student.capacities]
        members = [
            teachers.train_teacher(name, m, config.teachers.recipe_of(m), config.seed, self.data, store)
            for name, m, _ in config.teachers.each()
        ]
        pooled = ensemble.optimize_weights(
            members, self.logits("val_ensemble", members), self.data, config.ensemble, store
        )
        taught = self.logits("transfer", [m for m in members if m.name in ensemble.active(pooled)])
        found = search.run_search(config, self.data, pooled, taught, profiles, store)
        alone = search.run_baseline_search(config, self.data, found, profiles, store)
        finals = self.finals(pooled, taught, found, alone)
        on_val, on_test = self.logits("val_search", members), self.logits("test", members)
        chosen = found.json("search.json")["chosen"]
        judged = evaluate.Inputs(members, on_val, on_test, pooled, finals, chosen, self.data)
        evaluation = evaluate.evaluate(judged, self.rows, config.evaluation, store)
        student = next(f.students[0] for f in finals if f.capacity == chosen)
        exported = export.export_student(student, self.data, self.rows, runs, store)
        return self.decision(evaluation, exported)

    def logits(self, split: str, members: list[Handle]) -> list[Handle]:
        """The members' logits on a split."""
        views: dict[str, Any] = {"views": self.config.student.views} if split == "transfer" else {}
        return [logits.cache_logits(m, split, self.data, self.config.logits, self.store, **views) for m in members]

    def finals(self, pooled: Handle, taught: list[Handle], found: Handle, alone: Handle) -> list[evaluate.Finals]:
        """The networks that flows/finals.py trains."""
        config, content = self.config, found.json("search.json")
        seeds = [config.seed, *(teachers.derive_seed(config.seed, "repeat", n) for n in range(1, config.search.seeds))]

        def student(capacity: Capacity, setting: Setting, seed: int) -> Handle:
            given = (capacity, setting, config.student, seed, self.data, pooled, taught, self.store)
            return students.train_student(*given)

        def baseline(capacity: Capacity, setting: Setting, seed: int) -> Handle:
            return students.train_baseline(capacity, setting, config.student, seed, self.data, self.store)

        finals = []
        for capacity in (c for c in config.student.capacities if c.name in content["ranked"]):
            if capacity.name != content["chosen"]:
                setting = search.best_settings(found, capacity.name)[0]
                own = (student(capacity, setting, seeds[0]),), (baseline(capacity, setting, seeds[0]),)
                finals.append(evaluate.Finals(capacity.name, *own))
                continue
            settings, labels_only = (
                search.best_settings(h, capacity.name, config.search.finalists) for h in (found, alone)
            )
            if config.search.epochs is not None:
                labels_only += [s.model_copy(update={"epochs": config.search.epochs}) for s in labels_only]
            taught_ones = [[student(capacity, setting, seed) for seed in seeds] for setting in settings]
            best = search.select(taught_ones, config.search.objectives[0])
            rivals = [[baseline(capacity, setting, seed) for seed in seeds] for setting in labels_only]
            rival = rivals[search.select(rivals, config.search.objectives[0])]
            plain = tuple(baseline(capacity, settings[best], seed) for seed in seeds)
            finals.append(evaluate.Finals(capacity.name, tuple(taught_ones[best]), plain, tuple(rival)))
        return finals

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
