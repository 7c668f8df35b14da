"""Trials of a study: students of one capacity, each trained with its own setting and judged on val_search."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from distillery.config.experiment import Capacity, Experiment, Recipe
from distillery.config.search_space import Halving, Setting
from distillery.devices import resolved
from distillery.stages.data.dataset import Dataset
from distillery.stages.distillation.distill import Targets, applied, distil, student_seed
from distillery.stages.distillation.held_out import HeldOut
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
        networks = len(HeldOut(dataset).folds)
        groups = within_memory(groups, job.capacity, dataset.spec, recipe, device, networks)
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
    """Trains trials together; where students are judged by folds, a trial is one network for each fold."""
    began = time.perf_counter()
    held_out = HeldOut(dataset)
    by_trial = Networks(len(trials), len(held_out.folds))
    seed = student_seed(job.config.seed, job.capacity)
    networks = [build_network(job.capacity, dataset.spec, seed) for _ in by_trial.all]
    settings = [trials[trial].setting for trial, _ in by_trial.all]
    folds = [held_out.folds[place] for _, place in by_trial.all]
    seeds = [seed] * len(networks)
    progress = [Progress() for _ in trials]

    def measure(logits: Mapping[int, np.ndarray]) -> dict[int, dict[str, float]]:
        figures = {trial: _judged(own, held_out) for trial, own in enumerate(by_trial.of(logits))}
        return {network: figures[by_trial.all[network][0]] for network in logits}

    def on_epochs(epoch: int, records: dict[int, dict[str, float]]) -> Collection[int]:
        if epoch not in rungs.epochs:  # nothing was measured there
            return ()
        nlls = {by_trial.all[network][0]: record["nll"] for network, record in records.items()}
        losers = rungs.losers(epoch, nlls, progress)
        return [network for network in records if by_trial.all[network][0] in losers]

    validation = Validation(dataset.inputs, measure, rungs.epochs, held_out.rows)
    if job.ensemble is None:
        recipes = [applied(setting, recipe) for setting in settings]
        parts = [dataset.places_without(() if fold is None else (fold,)) for fold in folds]
        results = fit_classifiers(
            networks,
            dataset,
            recipes,
            seeds,
            parts=parts if dataset.search_by_folds else None,
            device=device,
            validation=validation,
            on_epochs=on_epochs,
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
            folds=folds,
            device=device,
            validation=validation,
            on_epochs=on_epochs,
        )
    seconds = (time.perf_counter() - began) / len(trials)
    return [
        _outcome(job.capacity.name, trial, own, _of_all(found), seconds)
        for trial, own, found in zip(trials, progress, by_trial.of(dict(enumerate(results))), strict=True)
    ]


Value = TypeVar("Value")


class Networks:
    """The networks of some trials, fold after fold: those that are shown the same batches train in one block.

    Attributes:
        all: (place of the trial, place of the network in it) of each network.
    """

    def __init__(self, trials: int, each: int) -> None:
        self._trials = trials
        self.all = [(trial, place) for place in range(each) for trial in range(trials)]

    def of(self, values: Mapping[int, Value]) -> list[list[Value | None]]:
        """The values of each trial's networks, from those by network; None for a network without one."""
        found: list[list[Value | None]] = [[] for _ in range(self._trials)]
        for network, (trial, _) in enumerate(self.all):
            found[trial].append(values.get(network))
        return found


def _judged(logits: Sequence[np.ndarray | None], held_out: HeldOut) -> dict[str, float]:
    """Figures of a trial from its networks' logits [N, C]; the NLL is that of the calibrated answers."""
    whole = [own for own in logits if own is not None and np.isfinite(own).all()]
    if len(whole) < len(logits):
        return {"nll": float("nan")}
    answers = held_out.gathered(whole)
    figures = held_out.figures(answers / held_out.temperature(answers))
    return {name: figures[name] for name in ("nll", "nll_se", "accuracy", "accuracy_se")}


def _of_all(results: Sequence[TrainResult | None]) -> TrainResult:
    """What came of a trial: of a network of it that failed, or else of the first."""
    found = [result for result in results if result is not None]
    return next((result for result in found if result.error is not None), found[0])


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
