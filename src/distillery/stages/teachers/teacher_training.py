"""Stage `teachers`: each member is trained, checkpointed and measured on val_ensemble."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.special import log_softmax
from torch import nn

from distillery.config.experiment import Model, Recipe, Teacher
from distillery.devices import resolved
from distillery.errors import InputError, first_line
from distillery.models import MODELS, GivenLogits, InputSpec
from distillery.models.given import in_class_order
from distillery.ops.metrics import quality
from distillery.stages.data.dataset import Dataset
from distillery.stages.teachers import estimator_files
from distillery.stages.teachers.fit_estimator import fit_estimator
from distillery.stages.teachers.member_keys import made_from
from distillery.stages.teachers.members import EstimatorMember, GivenMember, Member, NetworkMember, logits_of
from distillery.store import Handle, Store, fingerprint, write_json
from distillery.training import torchrun
from distillery.training.feed import Inputs
from distillery.training.fit import OnEpochs, TrainJob, TrainResult, Validation, fit
from distillery.training.networks import build_network, derive_seed, load_network, save_network
from distillery.training.objectives import Answers, Labels
from distillery.training.stack_size import stacks, within_memory

VERSION = 5

OnEpochOf = Callable[[int, int, dict[str, float]], None]
"""(place of the network in what was asked for, epoch, record)."""


def check_model(model: Model, spec: InputSpec, where: str, n_rows: int, classes: Sequence[str] | None = None) -> None:
    """Builds a model once, and runs a network on two blank rows, before anything trains.

    Raises:
        InputError: It cannot be built, does not give [2, C], is an estimator that cannot be kept, or holds given logits
            for another number of rows or whose columns cannot be told apart.
    """
    if MODELS.traits(model.family).get("outside"):
        return
    try:
        built = MODELS[model.family](spec, **model.options)
        if isinstance(built, GivenLogits) and classes is not None:
            in_class_order(built, classes)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if isinstance(built, GivenLogits) and len(built.logits) != n_rows:
        raise InputError(f"{where}: expected given logits for {n_rows} rows of the data, got {len(built.logits)}")
    if isinstance(built, GivenLogits):
        return
    if not isinstance(built, nn.Module):
        _check_estimator(model, built, spec, where)
        return
    try:
        with torch.inference_mode():
            shape = tuple(built.eval()(torch.zeros(2, *spec.shape)).shape)
    except (RuntimeError, AssertionError, ValueError) as error:
        first = first_line(error)
        raise InputError(f"{where}: does not take inputs of shape {list(spec.shape)}: {first}") from error
    if shape != (2, spec.classes):
        raise InputError(f"{where}: expected logits of shape [2, {spec.classes}], got {list(shape)}")


def _check_estimator(model: Model, built: Any, spec: InputSpec, where: str) -> None:
    if model.options.get("trusted"):
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            estimator_files.check_keeps(built, spec.classes, Path(folder))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error


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

    Those that are not there yet train together where their family allows it.

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
            members = _train_networks(works, own, teacher, recipe, dataset, device, report)
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


def _train_networks(
    works: dict[int, Path],
    jobs: Sequence[_Job],
    teacher: Teacher,
    recipe: Recipe,
    dataset: Dataset,
    device: str,
    report: OnEpochs,
) -> dict[int, Member | Exception]:
    """Trains networks together and keeps those that have a folder, by place."""
    # All of the group, also where some are there already: in a smaller stack the others would be rounded otherwise.
    networks = [build_network(teacher, dataset.spec, job.seed) for job in jobs]
    if torchrun.wanted(networks):
        (work,) = works.values()
        results = [_train_in_ranks(work, jobs[0], networks[0], teacher, recipe, dataset, device, report)]
    else:
        results = fit_classifiers(
            networks,
            dataset,
            [recipe] * len(networks),
            [job.seed for job in jobs],
            device=device,
            validation=validation_on("val_ensemble", dataset),
            on_epochs=report,
        )

    members: dict[int, Member | Exception] = {}
    for place, work in works.items():
        result = results[place]
        if result.error is not None:
            members[place] = FloatingPointError(f"teacher {jobs[place].name!r}: {result.error}")
            continue
        save_network(networks[place], work / "model.safetensors")
        write_json(work / "history.json", result.history)
        members[place] = NetworkMember(networks[place], device)
    return members


def _train_in_ranks(
    work: Path,
    job: _Job,
    network: nn.Module,
    teacher: Teacher,
    recipe: Recipe,
    dataset: Dataset,
    device: str,
    report: OnEpochs,
) -> TrainResult:
    """Trains one network by several processes, one for each GPU; they exchange weights through a file."""
    weights = work / "model.safetensors"
    save_network(network, weights)
    result = torchrun.train(
        f"teacher {job.name!r}",
        "distillery.stages.teachers.torchrun_worker",
        device,
        (teacher, recipe, job.seed, dataset.handle, weights),
        report,
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
    rows = dataset.splits["train"]
    fit_estimator(built, dataset.inputs[rows].reshape(len(rows), -1), dataset.labels("train"), seed)
    estimator_files.save(built, work, trusted=teacher.options.get("trusted", False))
    return EstimatorMember(built)


def fit_classifiers(
    networks: Sequence[nn.Module],
    dataset: Dataset,
    recipes: Sequence[Recipe],
    seeds: Sequence[int],
    *,
    device: str = "cpu",
    validation: Validation | None = None,
    on_epochs: OnEpochs | None = None,
) -> list[TrainResult]:
    """Trains `networks` together on the labels of train by cross-entropy."""
    batches = Inputs(dataset.inputs, dataset.splits["train"], device)
    learners = [TrainJob(n, r, s, batches) for n, r, s in zip(networks, recipes, seeds, strict=True)]
    labels = torch.from_numpy(dataset.labels("train")).to(device)
    objective = Labels(Answers(labels, None, dataset.spec.classes), [r.label_smoothing for r in recipes])
    return fit(learners, objective, device=device, validation=validation, on_epochs=on_epochs)


def validation_on(split: str, dataset: Dataset) -> Validation:
    """Accuracy and NLL on a validation split after every epoch: ``{split}/accuracy`` and ``{split}/nll``."""
    assert split != "test"
    labels = dataset.labels(split)

    def measure(logits: np.ndarray) -> dict[str, float]:
        log_probs = log_softmax(logits.astype(np.float64), axis=-1)
        nll = -log_probs[np.arange(len(labels)), labels].mean()
        return {f"{split}/accuracy": float((log_probs.argmax(-1) == labels).mean()), f"{split}/nll": float(nll)}

    return Validation(dataset.inputs, measure, rows=dataset.splits[split])


def load_member(handle: Handle, spec: InputSpec, device: str = "cpu") -> Member:
    """The member that a `teachers` stage directory holds."""
    if handle.file("given.npz").exists():
        with np.load(handle.file("given.npz")) as arrays:
            return GivenMember(GivenLogits(arrays["logits"]))
    model = model_of(handle)
    if MODELS.traits(model["family"])["network"]:
        return NetworkMember(load_network(model, spec, handle.file("model.safetensors")), device)
    unfitted = MODELS[model["family"]](spec, **{k: v for k, v in model.items() if k != "family"})
    trusted = model.get("trusted", False)
    return EstimatorMember(estimator_files.load(Path(handle.path), unfitted, trusted=trusted))


def model_of(handle: Handle) -> dict[str, Any]:
    """Family and options of a member: those that its stage is named by, whoever has written the files.

    They say which file is opened, and whose code is run for it. The stage's name comes from this run's own config.
    """
    key = handle.json("member.json").get("key")
    if fingerprint("teachers", key) != handle.fingerprint:
        raise InputError(f"{handle.file('member.json')}: expected the member that the folder is named by, got another")
    model: dict[str, Any] = key[1]["model"]
    return model
