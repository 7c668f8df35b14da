"""Trials of a study: students of one capacity, each trained with its own setting and judged on val_search."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from distillery.config.experiment import Capacity, Experiment
from distillery.config.search_space import Setting
from distillery.devices import resolved
from distillery.ops.metrics import row_correct, row_nll
from distillery.stages.data.dataset import Dataset
from distillery.stages.distillation.calibration import calibration_rows, temperature_of
from distillery.stages.distillation.distill import Targets, applied, distil, student_seed
from distillery.stages.distillation.soft_losses import together
from distillery.stages.teachers.teacher_training import fit_classifiers
from distillery.store import Handle
from distillery.training.fit import Validation
from distillery.training.networks import build_network
from distillery.training.stack_size import stacks, within_memory


@dataclass(frozen=True)
class Job:
    """Trials of one capacity, as they travel to a worker process.

    Attributes:
        ensemble: Stage `ensemble`; None for trials without a teacher.
        logits: The members' logits on the transfer set.
        settings: One for each trial.
        device: Where to train; `AUTO` for the process that does to decide.
        rungs: Epochs after which trials are compared, each with the NLLs that earlier trials had there.
    """

    config: Experiment
    data: Handle
    ensemble: Handle | None
    logits: tuple[Handle, ...]
    capacity: Capacity
    settings: tuple[Setting, ...]
    device: str
    rungs: tuple[tuple[int, tuple[float, ...]], ...] = ()


def train_trials(job: Job) -> list[dict[str, Any]]:
    """Trains the students of a job, together where that is possible, and judges them on val_search.

    Result: for each `state` (complete, stopped or fail), figures, and `curve`: the NLL at each rung that it came to.
    """
    return _Trials(replace(job, device=resolved(job.device))).run()


@dataclass
class _Trials:
    job: Job
    dataset: Dataset = field(init=False)
    seen: dict[int, list[float]] = field(init=False)
    found: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.dataset = Dataset(self.job.data)
        self.seen = {epoch: list(values) for epoch, values in self.job.rungs}
        self.found = [{"curve": {}} for _ in self.job.settings]
        recipe, epochs = self.job.config.student.recipe, self.job.config.search.epochs
        self.recipe = recipe if epochs is None else recipe.model_copy(update={"epochs": epochs})

    def run(self) -> list[dict[str, Any]]:
        """The records of all trials."""
        job = self.job
        groups = together(job.settings, job.config.student.loss)
        if stacks(job.capacity, self.dataset.spec.kind):
            groups = within_memory(groups, job.capacity, self.dataset.spec, self.recipe, job.device)
        else:
            groups = [[place] for group in groups for place in group]
        for group in groups:
            self._train(group)
        return self.found

    def _train(self, group: list[int]) -> None:
        job, began = self.job, time.perf_counter()
        seed = student_seed(job.config.seed, job.capacity)
        networks = [build_network(job.capacity, self.dataset.spec, seed) for _ in group]
        settings, seeds = [job.settings[place] for place in group], [seed] * len(group)

        def on_epochs(epoch: int, records: dict[int, dict[str, float]]) -> Collection[int]:
            return self._compare(epoch, {group[k]: record for k, record in records.items()}, group)

        judged = {*self.seen, self.recipe.epochs}
        rows = calibration_rows(self.dataset)
        validation = Validation(self.dataset.inputs, _Judge(self.dataset), judged, rows)
        options: dict[str, Any] = {"device": job.device, "validation": validation, "on_epochs": on_epochs}
        if job.ensemble is None:
            recipes = [applied(setting, self.recipe) for setting in settings]
            courses = fit_classifiers(networks, self.dataset, recipes, seeds, **options)
        else:
            config = job.config.student
            targets = Targets.load(job.data, config.views, job.ensemble, list(job.logits), job.device)
            courses = distil(networks, self.dataset, targets, settings, seeds, config, self.recipe, **options)
        seconds = (time.perf_counter() - began) / len(group)
        for place, course in zip(group, courses, strict=True):
            record = self.found[place]
            if course.error is not None:
                record["reason"] = course.error
            if "reason" in record:
                record |= {"state": "fail", "reason": f"{self._name(place)}: {record['reason']}"}
                continue
            record |= {"state": "stopped" if course.stopped else "complete", "seconds": seconds}
            record |= {k: course.history[-1][k] for k in ("nll", "nll_se", "accuracy", "accuracy_se")}

    def _name(self, place: int) -> str:
        setting = self.job.settings[place].model_dump(exclude_none=True)
        return f"trial of {self.job.capacity.name!r} with {setting}"

    def _compare(self, epoch: int, records: dict[int, dict[str, float]], group: list[int]) -> list[int]:
        """The learners that stop here: those that diverge, and at a rung those that are behind."""
        if epoch not in self.seen and epoch != self.recipe.epochs:
            return []
        lost = {place for place, record in records.items() if not np.isfinite(record["nll"])}
        for place in lost:
            nll = records[place]["nll"]
            self.found[place]["reason"] = f"the NLL on val_search became {nll}; a lower lr may help"
        if epoch in self.seen:
            going = {place: record["nll"] for place, record in records.items() if place not in lost}
            for place, nll in going.items():
                self.found[place]["curve"][str(epoch)] = nll
            self.seen[epoch] += going.values()
            halving = self.job.config.search.halving
            if halving is not None and len(self.seen[epoch]) >= halving.grace:
                limit = np.quantile(self.seen[epoch], 1 / halving.eta)
                lost |= {place for place, nll in going.items() if nll > limit}
        return [group.index(place) for place in lost]


class _Judge:
    """Figures on val_search of logits on all validation rows; the NLL is that of the calibrated network."""

    def __init__(self, dataset: Dataset) -> None:
        self.labels = dataset.labels_of(calibration_rows(dataset))
        self.part = slice(len(dataset.splits["val_ensemble"]), None)

    def __call__(self, logits: np.ndarray) -> dict[str, float]:
        if not np.isfinite(logits).all():
            return {"nll": float("nan")}
        labels, own = self.labels[self.part], logits[self.part]
        nll = row_nll(own / temperature_of(logits, self.labels), labels)
        correct = row_correct(own, labels)
        return {
            "nll": float(nll.mean()),
            "nll_se": float(nll.std() / np.sqrt(len(nll))),
            "accuracy": float(correct.mean()),
            "accuracy_se": float(correct.std() / np.sqrt(len(correct))),
        }
