"""Stage `students`: one small network, taught by the ensemble's cached logits, and the same one without a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from distillery.config.experiment import Capacity, Recipe, Student
from distillery.config.search_space import Setting
from distillery.devices import resolved
from distillery.stages.data.dataset import LEARNED, Dataset
from distillery.stages.distillation.distill import Targets, applied, distil, student_seed
from distillery.stages.distillation.held_out import HeldOut
from distillery.stages.distillation.soft_losses import together
from distillery.stages.students.student_files import HELD_OUT_LOGITS, StudentRecord
from distillery.stages.teachers.label_training import fit_classifiers, validation_on
from distillery.stages.teachers.member_keys import content_key
from distillery.stages.teachers.teacher_training import OnEpochOf
from distillery.store import Handle, Store, write_json
from distillery.training.fit import OnEpochs, TrainResult, Validation
from distillery.training.networks import build_network, save_network
from distillery.training.single import predict
from distillery.training.stack_size import stacks, within_memory

VERSION = 8


@dataclass(frozen=True)
class TrainingRequest:
    """One network of a capacity: how it is trained, and the experiment's or a repeat's seed."""

    setting: Setting
    seed: int


def train_students(
    capacity: Capacity,
    requests: Sequence[TrainingRequest],
    config: Student,
    data: Handle,
    ensemble: Handle,
    logits: list[Handle],
    store: Store,
    *,
    device: str = "cpu",
    on_epoch: OnEpochOf | None = None,
) -> list[Handle]:
    """Distilled students: ``model.safetensors``, ``student.json``, ``history.json`` of each.

    Those that are not there yet train together where their networks and settings allow it. Where students are judged by
    folds, each is trained on all of train, and once without each fold: the answers of these networks to the rows of
    their folds, calibrated, are in ``held_out_logits.npy`` [rows of train, C].

    Raises:
        FloatingPointError: Training diverged.
    """
    device = resolved(device)
    upstream = [config.views, ensemble.fingerprint, [handle.fingerprint for handle in logits]]
    jobs = []
    for request in requests:
        loss = request.setting.chosen_loss(config.loss)
        jobs.append(_Job(request, config.recipe, ["distilled", request.setting, loss, *upstream]))
    groups = together([request.setting for request in requests], config.loss)

    def train(
        networks: list[nn.Module], own: Sequence[_Job], folds: Folds, dataset: Dataset, report: OnEpochs | None
    ) -> list[TrainResult]:
        targets = Targets.load(data, config.views, ensemble, logits, device)
        return distil(
            networks,
            dataset,
            targets,
            [job.request.setting for job in own],
            [job.seed(capacity) for job in own],
            config,
            config.recipe,
            folds=folds,
            device=device,
            validation=_validation(dataset),
            on_epochs=report,
        )

    return _train_missing("student", capacity, jobs, groups, train, data, store, device, on_epoch)


def train_baselines(
    capacity: Capacity,
    requests: Sequence[TrainingRequest],
    config: Student,
    data: Handle,
    store: Store,
    *,
    device: str = "cpu",
    on_epoch: OnEpochOf | None = None,
) -> list[Handle]:
    """The same networks with the same initial weights, on labels alone, augmented anew in every epoch.

    With the student's setting it is the plain baseline (its learning rate, weight decay and noise count); with a
    setting that was searched without a teacher, the tuned one.

    Raises:
        FloatingPointError: Training diverged.
    """
    device = resolved(device)
    jobs = [_Job(request, applied(request.setting, config.recipe), ["labels"]) for request in requests]
    # Of a setting, only its number of epochs keeps two baselines from training together.
    groups = together([Setting(epochs=request.setting.epochs) for request in requests], config.loss)

    def train(
        networks: list[nn.Module], own: Sequence[_Job], folds: Folds, dataset: Dataset, report: OnEpochs | None
    ) -> list[TrainResult]:
        parts = [dataset.places_without(() if fold is None else (fold,)) for fold in folds]
        return fit_classifiers(
            networks,
            dataset,
            [job.recipe for job in own],
            [job.seed(capacity) for job in own],
            parts=parts if dataset.search_by_folds else None,
            device=device,
            validation=_validation(dataset),
            on_epochs=report,
        )

    return _train_missing("baseline", capacity, jobs, groups, train, data, store, device, on_epoch)


@dataclass(frozen=True)
class _Job:
    """A network to be trained.

    Attributes:
        recipe: What is hashed as its recipe: a student's settings are hashed beside it, a baseline's are in it.
        key: What else determines the network.
    """

    request: TrainingRequest
    recipe: Recipe
    key: list[object]

    def seed(self, capacity: Capacity) -> int:
        """Of the initial weights and the batches."""
        return student_seed(self.request.seed, capacity)


Folds = Sequence[int | None]
"""The fold that each network is trained without."""

Train = Callable[[list[nn.Module], Sequence[_Job], Folds, Dataset, OnEpochs | None], list[TrainResult]]


def _validation(dataset: Dataset) -> Validation | None:
    """Figures after each epoch; none where a network has learned all rows, or is judged on one fold alone."""
    return None if dataset.search_by_folds else validation_on("val_search", dataset)


def _train_missing(
    role: Literal["student", "baseline"],
    capacity: Capacity,
    jobs: Sequence[_Job],
    groups: list[list[int]],
    train: Train,
    data: Handle,
    store: Store,
    device: str,
    on_epoch: OnEpochOf | None,
) -> list[Handle]:
    """The stage directory of each job, found or trained, in the order of the jobs."""
    dataset = Dataset(data)
    model = [VERSION, capacity.name, content_key(capacity)]
    rows = dataset.digest(*LEARNED)
    if stacks(capacity, dataset.spec.kind):
        networks = len(HeldOut(dataset).folds)
        groups = within_memory(groups, capacity, dataset.spec, jobs[0].recipe, device, networks)
    else:
        groups = [[index] for group in groups for index in group]

    def build(works: dict[int, Path], group: list[int]) -> dict[int, dict[str, float] | Exception]:
        # All of the group, also where some are there already: in a smaller stack the others would be rounded otherwise.
        own = [jobs[index] for index in group]
        networks = [build_network(capacity, dataset.spec, job.seed(capacity)) for job in own]

        def report(epoch: int, records: dict[int, dict[str, float]]) -> tuple[()]:
            for place, figures in records.items():
                if on_epoch is not None and place in works:
                    on_epoch(group[place], epoch, figures)
            return ()

        results = train(networks, own, [None] * len(own), dataset, report)
        if dataset.search_by_folds:
            answers = _answers_by_folds(capacity, own, train, dataset, device)
        else:
            rows = HeldOut(dataset).rows
            answers = {place: predict(networks[place], dataset.inputs, rows, device=device) for place in works}
        kept: dict[int, dict[str, float] | Exception] = {}
        for place, work in works.items():
            result, answer = results[place], answers[place]
            error = result.error or (answer if isinstance(answer, str) else None)
            if error is not None or isinstance(answer, str):
                kept[place] = FloatingPointError(f"{role} {capacity.name!r}: {error}")
                continue
            write_json(work / "history.json", result.history)
            kept[place] = _keep(work, role, capacity, own[place], networks[place], answer, dataset)
        return kept

    handles: dict[int, Handle] = {}
    for group in groups:
        entries = []
        for index in group:
            job = jobs[index]
            key = [*model, job.recipe, job.key, job.seed(capacity), rows]
            entries.append((f"{capacity.name}-{role}", key))
        found = store.stages("students", entries, partial(build, group=group))
        handles |= dict(zip(group, found, strict=True))
    return [handles[index] for index in range(len(jobs))]


def _answers_by_folds(
    capacity: Capacity, jobs: Sequence[_Job], train: Train, dataset: Dataset, device: str
) -> dict[int, np.ndarray | str]:
    """Logits [rows of train, C] of each job, of networks that have not learned the row; or why one has failed."""
    held_out = HeldOut(dataset)
    each = len(held_out.folds)
    # Fold after fold: networks that are shown the same batches train in one block.
    repeated = list(jobs) * each
    folds = [fold for fold in held_out.folds for _ in jobs]
    networks = [build_network(capacity, dataset.spec, job.seed(capacity)) for job in repeated]
    results = train(networks, repeated, folds, dataset, None)
    found: dict[int, np.ndarray | str] = {}
    for place in range(len(jobs)):
        own = slice(place, None, len(jobs))
        errors = [result.error for result in results[own] if result.error is not None]
        if errors:
            found[place] = errors[0]
            continue
        logits = [predict(network, dataset.inputs, held_out.rows, device=device) for network in networks[own]]
        found[place] = held_out.gathered(logits)
    return found


def _keep(
    work: Path,
    role: Literal["student", "baseline"],
    capacity: Capacity,
    job: _Job,
    network: nn.Module,
    answers_NC: np.ndarray,
    dataset: Dataset,
) -> dict[str, float]:
    """Calibrates a trained network by its answers, writes its files, and returns its figures on val_search."""
    save_network(network, work / "model.safetensors")
    held_out = HeldOut(dataset)
    temperature = held_out.temperature(answers_NC)
    calibrated_NC = answers_NC / np.float32(temperature)
    if dataset.search_by_folds:
        np.save(work / HELD_OUT_LOGITS, calibrated_NC)
    setting = job.request.setting
    record = StudentRecord(
        model=capacity.model_dump(mode="json"),
        setting=setting.model_dump(mode="json") if role == "student" else None,
        recipe=applied(setting, job.recipe).model_dump(mode="json"),
        calibration_temperature=temperature,
    )
    record.write(work)
    return held_out.figures(calibrated_NC) | {"calibration_temperature": temperature}
