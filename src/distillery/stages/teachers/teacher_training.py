"""Stage `teachers`: each member is trained, checkpointed and measured on val_ensemble."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Sequence
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
from distillery.errors import InputError
from distillery.models import MODELS, GivenLogits, InputSpec
from distillery.models.given import in_class_order
from distillery.ops.metrics import quality
from distillery.stages.data.dataset import Dataset
from distillery.stages.teachers import estimator_files
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
        first = str(error).splitlines()[0]
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
    trained = MODELS.traits(teacher.family)["network"]
    seeds = [derive_seed(seed, name) for name in names]
    keys = [[VERSION, made_from(teacher, recipe if trained else None, own, data)] for own in seeds]

    def build(works: dict[int, Path], group: Sequence[int]) -> dict[int, dict[str, Any] | Exception]:
        dataset = Dataset(data)
        mine = [(names[place], seeds[place]) for place in group]
        for place, work in works.items():
            told = {"name": names[group[place]], "checkpoint": teacher.options.get("checkpoint")}
            write_json(work / "member.json", {**told, "key": keys[group[place]]})
        if trained:
            report = None if on_epoch is None else partial(_report, on_epoch, {place: group[place] for place in works})
            members = _networks(works, mine, teacher, recipe, dataset, device, report)
        else:
            members = {place: _other(work, teacher, mine[place][1], dataset) for place, work in works.items()}
        rows, labels = dataset.splits["val_ensemble"], dataset.labels("val_ensemble")
        return {
            place: m if isinstance(m, Exception) else quality(logits_of(m, dataset.inputs, rows), labels)
            for place, m in members.items()
        }

    places, spec = list(range(len(names))), Dataset(data).spec
    groups = [[place] for place in places]
    if stacks(teacher, spec.kind):
        groups = within_memory([places], teacher, spec, recipe, device)
    made: list[Handle] = []
    for group in groups:
        wanted = [(names[i], keys[i]) for i in group]
        made += store.stages("teachers", wanted, partial(build, group=group))
    return made


def _report(on_epoch: OnEpochOf, places: dict[int, int], epoch: int, records: dict[int, dict[str, float]]) -> tuple[()]:
    for number, figures in records.items():
        if number in places:
            on_epoch(places[number], epoch, figures)
    return ()


def _networks(
    works: dict[int, Path],
    mine: list[tuple[str, int]],
    teacher: Teacher,
    recipe: Recipe,
    dataset: Dataset,
    device: str,
    report: OnEpochs | None,
) -> dict[int, Member | Exception]:
    # All of the group, also where some are there already: in a smaller stack the others would be rounded otherwise.
    seeds = [own for _, own in mine]
    networks = [build_network(teacher, dataset.spec, own) for own in seeds]
    if torchrun.wanted(networks):
        ((place, weights),) = ((place, work / "model.safetensors") for place, work in works.items())
        save_network(networks[0], weights)
        job = (teacher, recipe, seeds[0], dataset.handle, weights)
        courses = [
            torchrun.train(
                f"teacher {mine[place][0]!r}", "distillery.stages.teachers.torchrun_worker", device, job, report
            )
        ]
        networks[0].load_state_dict(load_file(weights))
    else:
        courses = fit_classifiers(
            networks,
            dataset,
            [recipe] * len(networks),
            seeds,
            device=device,
            validation=validation_on("val_ensemble", dataset),
            on_epochs=report,
        )
    members: dict[int, Member | Exception] = {}
    for place, work in works.items():
        network, course = networks[place], courses[place]
        if course.error is not None:
            members[place] = FloatingPointError(f"teacher {mine[place][0]!r}: {course.error}")
            continue
        save_network(network, work / "model.safetensors")
        write_json(work / "history.json", course.history)
        members[place] = NetworkMember(network, device)
    return members


def _other(work: Path, teacher: Teacher, seed: int, dataset: Dataset) -> Member:
    """A fitted estimator, or given logits."""
    write_json(work / "history.json", [])
    built = MODELS[teacher.family](dataset.spec, **teacher.options)
    if isinstance(built, GivenLogits):
        built = in_class_order(built, dataset.classes)
        np.savez(work / "given.npz", logits=built.logits)
        return GivenMember(built)
    if "random_state" in inspect.signature(type(built)).parameters and built.random_state is None:
        built.set_params(random_state=seed)
    rows = dataset.splits["train"]
    built.fit(dataset.inputs[rows].reshape(len(rows), -1), dataset.labels("train"))
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
