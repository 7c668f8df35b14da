"""Stage `teachers`: each member is trained, checkpointed and measured on val_ensemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from torch import nn

from distillery.config.experiment import Recipe, Teacher
from distillery.devices import resolved
from distillery.models import MODELS, GivenLogits
from distillery.models.given import in_class_order
from distillery.ops.metrics import quality
from distillery.stages.data.dataset import Dataset
from distillery.stages.teachers import estimator_files
from distillery.stages.teachers.fit_estimator import fit_estimator
from distillery.stages.teachers.label_training import fit_classifiers, validation_on
from distillery.stages.teachers.member_files import member_of, model_folder
from distillery.stages.teachers.member_keys import made_from
from distillery.stages.teachers.members import (
    EstimatorMember,
    GivenMember,
    Member,
    NetworkMember,
    logits_of,
)
from distillery.store import Handle, Store, write_json
from distillery.training import torchrun
from distillery.training.fit import OnEpochs, TrainResult
from distillery.training.networks import build_network, derive_seed, save_network
from distillery.training.stack_size import stack_size, stacks, within_memory

VERSION = 6

OnEpochOf = Callable[[int, int, dict[str, float]], None]
"""(place of the network in what was asked for, epoch, record)."""


def train_teachers(
    names: Sequence[str],
    teacher: Teacher,
    recipe: Recipe,
    seed: int,
    data: Handle,
    store: Store,
    *,
    device: str = "cpu",
    on_epoch: OnEpochOf | None = None,
) -> list[Handle]:
    """Trained copies of one member: ``model.safetensors`` or ``model.skops``, ``member.json``, ``history.json``.

    Those that are not there yet train together where their family allows it. With folds, the model that was trained
    without fold k is in the folder ``without-{k}``.

    Raises:
        FloatingPointError: Training diverged.
    """
    device = resolved(device)
    is_network = MODELS.traits(teacher.family)["network"]
    jobs = []
    for name in names:
        own = derive_seed(seed, name)
        key = [VERSION, made_from(teacher, recipe if is_network else None, own, data)]
        jobs.append(_Job(name, own, key))

    dataset = Dataset(data)
    groups = [[index] for index in range(len(jobs))]
    if stacks(teacher, dataset.spec.kind):
        groups = within_memory([list(range(len(jobs)))], teacher, dataset.spec, recipe, device)

    def build(works: dict[int, Path], group: list[int]) -> dict[int, dict[str, float] | Exception]:
        own = [jobs[index] for index in group]
        for place, work in works.items():
            member = {"name": own[place].name, "checkpoint": teacher.options.get("checkpoint"), "key": own[place].key}
            write_json(work / "member.json", member)

        def report(epoch: int, records: dict[int, dict[str, float]]) -> tuple[()]:
            for place, figures in records.items():
                if on_epoch is not None and place in works:
                    on_epoch(group[place], epoch, figures)
            return ()

        if is_network:
            how = _Training(own, teacher, recipe, dataset, device, report)
            members = _train_networks(works, how) if dataset.folds is None else _train_networks_by_folds(works, how)
        else:
            members = {place: _fit_or_copy(work, teacher, own[place].seed, dataset) for place, work in works.items()}

        rows = dataset.splits["val_ensemble"]
        labels = dataset.labels("val_ensemble")
        figures: dict[int, dict[str, float] | Exception] = {}
        for place, trained in members.items():
            if isinstance(trained, Exception):
                figures[place] = trained
            else:
                figures[place] = quality(logits_of(trained, dataset.inputs, rows), labels)
        return figures

    handles: list[Handle] = []
    for group in groups:
        entries = [(jobs[index].name, jobs[index].key) for index in group]
        handles += store.stages("teachers", entries, partial(build, group=group))
    return handles


@dataclass(frozen=True)
class _Job:
    """A copy of a member that is to be trained; the key names its stage directory."""

    name: str
    seed: int
    key: list[object]


@dataclass(frozen=True)
class _Training:
    """How the networks of some copies of a member are trained."""

    jobs: Sequence[_Job]
    teacher: Teacher
    recipe: Recipe
    dataset: Dataset
    device: str
    report: OnEpochs


def _train_networks(works: dict[int, Path], how: _Training) -> dict[int, Member | Exception]:
    """Trains networks together and keeps those that have a folder, by place."""
    # All of the group, also where some are there already: in a smaller stack the others would be rounded otherwise.
    networks = [build_network(how.teacher, how.dataset.spec, job.seed) for job in how.jobs]
    if torchrun.wanted(networks):
        (work,) = works.values()
        results = [_train_in_ranks(work, networks[0], how)]
    else:
        results = fit_classifiers(
            networks,
            how.dataset,
            [how.recipe] * len(networks),
            [job.seed for job in how.jobs],
            device=how.device,
            validation=validation_on("val_ensemble", how.dataset),
            on_epochs=how.report,
        )

    members: dict[int, Member | Exception] = {}
    for place, work in works.items():
        result = results[place]
        if result.error is not None:
            members[place] = FloatingPointError(f"teacher {how.jobs[place].name!r}: {result.error}")
            continue
        save_network(networks[place], work / "model.safetensors")
        write_json(work / "history.json", result.history)
        members[place] = NetworkMember(networks[place], how.device)
    return members


def _train_networks_by_folds(works: dict[int, Path], how: _Training) -> dict[int, Member | Exception]:
    """Trains the networks of each job without some folds, as many together as there is room for."""
    networks: dict[tuple[int, tuple[int, ...]], nn.Module] = {}
    results: dict[tuple[int, tuple[int, ...]], TrainResult] = {}
    size = stack_size(how.teacher, how.recipe, how.dataset.spec, how.device)
    for count in sorted({len(left_out) for left_out in how.dataset.left_out}):  # of one number of rows
        keys = [(place, out) for place in range(len(how.jobs)) for out in how.dataset.left_out if len(out) == count]
        for start in range(0, len(keys), size):
            chosen = keys[start : start + size]
            seeds = [_seed_of(how.jobs[place].seed, left_out) for place, left_out in chosen]
            built = [build_network(how.teacher, how.dataset.spec, seed) for seed in seeds]
            parts = [how.dataset.places_without(left_out) for _, left_out in chosen]
            found = fit_classifiers(
                built, how.dataset, [how.recipe] * len(built), seeds, parts=parts, device=how.device
            )
            networks |= zip(chosen, built, strict=True)
            results |= zip(chosen, found, strict=True)

    members: dict[int, Member | Exception] = {}
    for place, work in works.items():
        own = {left_out: results[place, left_out] for left_out in how.dataset.left_out}
        errors = [result.error for result in own.values() if result.error is not None]
        if errors:
            members[place] = FloatingPointError(f"teacher {how.jobs[place].name!r}: {errors[0]}")
            continue
        models = {}
        for left_out in how.dataset.left_out:
            folder = model_folder(work, left_out)
            folder.mkdir(exist_ok=True)
            save_network(networks[place, left_out], folder / "model.safetensors")
            models[left_out] = NetworkMember(networks[place, left_out], how.device)
        history = _mean_history(list(own.values()))
        write_json(work / "history.json", history)
        for epoch, record in enumerate(history, 1):
            how.report(epoch, {place: record})
        members[place] = member_of(models, how.dataset)
    return members


def _mean_history(results: Sequence[TrainResult]) -> list[dict[str, float]]:
    """Means of the figures of each epoch over networks that were trained alike."""
    epochs = zip(*(result.history for result in results), strict=True)
    return [{name: float(np.mean([record[name] for record in epoch])) for name in epoch[0]} for epoch in epochs]


def _train_in_ranks(work: Path, network: nn.Module, how: _Training) -> TrainResult:
    """Trains the only network by several processes, one for each GPU; they exchange weights through a file."""
    (job,) = how.jobs
    weights = work / "model.safetensors"
    save_network(network, weights)
    result = torchrun.train(
        f"teacher {job.name!r}",
        "distillery.stages.teachers.torchrun_worker",
        how.device,
        (how.teacher, how.recipe, job.seed, how.dataset.handle, weights),
        how.report,
    )
    network.load_state_dict(load_file(weights))
    return result


def _fit_or_copy(work: Path, teacher: Teacher, seed: int, dataset: Dataset) -> Member:
    """A fitted estimator, or given logits."""
    write_json(work / "history.json", [])
    built = MODELS[teacher.family](dataset.spec, **teacher.options)
    if isinstance(built, GivenLogits):
        built = in_class_order(built, dataset.classes)
        np.savez(work / "given.npz", logits=built.logits)
        return GivenMember(built)
    models = {}
    rows = dataset.splits["train"]
    labels = dataset.labels("train")
    for left_out in dataset.left_out:
        built = MODELS[teacher.family](dataset.spec, **teacher.options)
        places = dataset.places_without(left_out)
        own = rows[places]
        fit_estimator(built, dataset.inputs[own].reshape(len(own), -1), labels[places], _seed_of(seed, left_out))
        folder = model_folder(work, left_out)
        folder.mkdir(exist_ok=True)
        estimator_files.save(built, folder, trusted=teacher.options.get("trusted", False))
        models[left_out] = EstimatorMember(built, dataset.spec.classes)
    return member_of(models, dataset)


def _seed_of(seed: int, left_out: tuple[int, ...]) -> int:
    """Of the model of a member that is trained without these folds."""
    return derive_seed(seed, "without", *left_out) if left_out else seed
