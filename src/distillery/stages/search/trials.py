"""Trials of a study: students of one capacity, each trained with its own setting and judged on val_search."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from distillery.config.experiment import Capacity, Experiment, Recipe
from distillery.config.search_space import Halving, Setting
from distillery.devices import resolved
from distillery.ops.metrics import row_correct, row_nll
from distillery.stages.data.dataset import Dataset
from distillery.stages.distillation.calibration import calibration_rows, temperature_of
from distillery.stages.distillation.distill import Targets, applied, distil, student_seed
from distillery.stages.distillation.soft_losses import together
from distillery.stages.search.record import Outcome, Point, TrialState
from distillery.stages.teachers.label_training import fit_classifiers
from distillery.store import Handle
from distillery.training.fit import TrainResult, Validation
from distillery.training.networks import build_network
from distillery.training.stack_size import stacks, within_memory


@dataclass(frozen=True)
class Proposed:
    """A trial that is to be trained.

    Attributes:
        number: In the study.
        capacity: Name of the capacity.
        setting: What it is trained with.
        proposal: The part of the setting that was searched.
    """

    number: int
    capacity: str
    setting: Setting
    proposal: Point = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """Trials of one capacity, as they travel to a worker process.

    Attributes:
        ensemble: Stage `ensemble`; None for trials without a teacher.
        logits: The members' logits on the transfer set.
        trials: What to train.
        device: Where to train; `AUTO` for the process that does to decide.
        rungs: Epochs after which trials are compared, each with the NLLs that earlier trials had there.
    """

    config: Experiment
    data: Handle
    ensemble: Handle | None
    logits: tuple[Handle, ...]
    capacity: Capacity
    trials: tuple[Proposed, ...]
    device: str
    rungs: tuple[tuple[int, tuple[float, ...]], ...] = ()


def train_trials(job: Job) -> list[Outcome]:
    """Trains the students of a job, together where that is possible, and judges them on val_search."""
    device = resolved(job.device)
    dataset = Dataset(job.data)
    recipe = job.config.student.recipe
    if job.config.search.epochs is not None:
        recipe = recipe.model_copy(update={"epochs": job.config.search.epochs})

    groups = together([trial.setting for trial in job.trials], job.config.student.loss)
    if stacks(job.capacity, dataset.spec.kind):
        groups = within_memory(groups, job.capacity, dataset.spec, recipe, device)
    else:
        groups = [[index] for group in groups for index in group]

    rungs = Rungs(dict(job.rungs), recipe.epochs, job.config.search.halving)
    outcomes: dict[int, Outcome] = {}
    for group in groups:
        trials = [job.trials[index] for index in group]
        results = _train_group(job, trials, dataset, recipe, device, rungs)
        outcomes |= dict(zip(group, results, strict=True))
    return [outcomes[index] for index in range(len(job.trials))]


def _train_group(
    job: Job, trials: Sequence[Proposed], dataset: Dataset, recipe: Recipe, device: str, rungs: Rungs
) -> list[Outcome]:
    """Trains trials together."""
    began = time.perf_counter()
    seed = student_seed(job.config.seed, job.capacity)
    networks = [build_network(job.capacity, dataset.spec, seed) for _ in trials]
    settings = [trial.setting for trial in trials]
    seeds = [seed] * len(trials)
    progress = [Progress() for _ in trials]

    def on_epochs(epoch: int, records: dict[int, dict[str, float]]) -> Collection[int]:
        if epoch not in rungs.epochs:  # nothing was measured there
            return ()
        return rungs.losers(epoch, {index: record["nll"] for index, record in records.items()}, progress)

    judge = _Judge(dataset)
    validation = Validation(dataset.inputs, judge, rungs.epochs, calibration_rows(dataset))
    if job.ensemble is None:
        recipes = [applied(setting, recipe) for setting in settings]
        results = fit_classifiers(
            networks, dataset, recipes, seeds, device=device, validation=validation, on_epochs=on_epochs
        )
    else:
        student = job.config.student
        targets = Targets.load(job.data, student.views, job.ensemble, list(job.logits), device)
        results = distil(
            networks,
            dataset,
            targets,
            settings,
            seeds,
            student,
            recipe,
            device=device,
            validation=validation,
            on_epochs=on_epochs,
        )
    seconds = (time.perf_counter() - began) / len(trials)
    return [
        _outcome(job.capacity.name, trial, own, result, seconds)
        for trial, own, result in zip(trials, progress, results, strict=True)
    ]


@dataclass
class Progress:
    """What is known of a trial while it trains: its NLL at each rung, and why it failed, if it did."""

    curve: dict[int, float] = field(default_factory=dict)
    reason: str | None = None


class Rungs:
    """Where trials are compared, and which of them stop there.

    Args:
        seen: The NLLs of earlier trials of the capacity, by the epoch after which they are compared.
        last: The last epoch of a trial.
        halving: When a trial is behind; None to look only.
    """

    def __init__(self, seen: Mapping[int, Sequence[float]], last: int, halving: Halving | None) -> None:
        self._seen = {epoch: list(values) for epoch, values in seen.items()}
        self._last = last
        self._halving = halving

    @property
    def epochs(self) -> set[int]:
        """The epochs after which trials are judged: the rungs and the last one."""
        return {*self._seen, self._last}

    def losers(self, epoch: int, nlls: Mapping[int, float], progress: Sequence[Progress]) -> set[int]:
        """The trials that stop after this epoch: those that diverge, and at a rung those that are behind.

        Args:
            epoch: That has ended, one of `epochs`.
            nlls: On val_search, by the trial's index.
            progress: Of all trials of the group; noted there is what happens here.
        """
        diverged = {index for index, nll in nlls.items() if not np.isfinite(nll)}
        for index in diverged:
            progress[index].reason = f"the NLL on val_search became {nlls[index]}; a lower lr may help"
        if epoch not in self._seen:
            return diverged

        going = {index: nll for index, nll in nlls.items() if index not in diverged}
        for index, nll in going.items():
            progress[index].curve[epoch] = nll
        self._seen[epoch] += going.values()
        return diverged | self._behind(epoch, going)

    def _behind(self, epoch: int, nlls: Mapping[int, float]) -> set[int]:
        seen = self._seen[epoch]
        if self._halving is None or len(seen) < self._halving.grace:
            return set()
        limit = np.quantile(seen, 1 / self._halving.eta)
        return {index for index, nll in nlls.items() if nll > limit}


def _outcome(capacity: str, trial: Proposed, progress: Progress, result: TrainResult, seconds: float) -> Outcome:
    reason = result.error if result.error is not None else progress.reason
    if reason is not None:
        setting = trial.setting.model_dump(exclude_none=True)
        reason = f"trial of {capacity!r} with {setting}: {reason}"
        return Outcome(state=TrialState.FAILED, curve=progress.curve, reason=reason)
    last = result.history[-1]
    return Outcome(
        state=TrialState.STOPPED if result.stopped else TrialState.COMPLETE,
        curve=progress.curve,
        seconds=seconds,
        nll=last["nll"],
        nll_se=last["nll_se"],
        accuracy=last["accuracy"],
        accuracy_se=last["accuracy_se"],
    )


class _Judge:
    """Figures on val_search of logits on all validation rows; the NLL is that of the calibrated network."""

    def __init__(self, dataset: Dataset) -> None:
        self.labels = dataset.labels_of(calibration_rows(dataset))
        self.part = slice(len(self.labels) - len(dataset.splits["val_search"]), None)

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
