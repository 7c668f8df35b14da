"""Stage `students`: one small network, taught by the ensemble's cached logits, and the same one without a teacher."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from distillery.config import Capacity, Recipe, Student, Views
from distillery.dataset import Dataset
from distillery.ensemble import teacher_logits
from distillery.errors import InputError
from distillery.logits import check_belongs
from distillery.losses import LOSSES
from distillery.metrics import quality
from distillery.models import InputSpec
from distillery.space import Loss, Setting
from distillery.store import Handle, Store, write_json
from distillery.teachers import (
    build_network,
    content_key,
    derive_seed,
    fit_classifier,
    load_network,
    save_network,
    validator,
)
from distillery.training.fit import OnEpoch, fit, predict
from distillery.transfer import Transfer

VERSION = 2


def applied(setting: Setting, recipe: Recipe) -> Recipe:
    """The recipe with the setting's own values in it."""
    names = ("lr", "weight_decay", "label_smoothing", "epochs")
    changes: dict[str, Any] = {k: getattr(setting, k) for k in names if getattr(setting, k) is not None}
    if setting.noise is not None:
        changes["augment"] = recipe.augment.model_copy(update={"noise": setting.noise})
    return recipe.model_copy(update=changes)


def check_loss(name: str, classes: int, where: str) -> None:
    """Refuses a loss that teaches nothing about so few classes.

    Raises:
        InputError: It does.
    """
    traits = LOSSES.traits(name)
    if classes < traits.get("min_classes", 2):
        raise InputError(
            f"{where}: loss {name!r} expects at least {traits['min_classes']} classes, got {classes}: {traits['dead']}"
        )


@dataclass(frozen=True)
class Targets:
    """What students of one ensemble learn from.

    Attributes:
        logits: The ensemble's, float32 [V · N, C], of the whole transfer set.
        shown: The transfer set's inputs [V · N, ...], where they fit into memory.
    """

    logits: torch.Tensor
    shown: torch.Tensor | None

    @classmethod
    def load(cls, data: Handle, views: Views, ensemble: Handle, logits: list[Handle], device: str = "cpu") -> Targets:
        """Reads and pools the members' logits on the transfer set.

        Raises:
            InputError: They were made for other data or views.
        """
        check_belongs(logits, data, views)
        pooled = torch.from_numpy(teacher_logits(ensemble, logits)).to(device)
        return cls(pooled, Transfer(Dataset(data), views, device=device).load())


def distil(
    network: nn.Module,
    dataset: Dataset,
    targets: Targets,
    setting: Setting,
    config: Student,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "cpu",
    validate_at: Container[int] | None = (),
    on_epoch: OnEpoch | None = None,
    what: str = "student",
) -> list[dict[str, float]]:
    """Trains `network` on ``alpha · soft + (1 - alpha) · CE`` over the items of the transfer set.

    The cross-entropy is with the row's label; where an item has none, with the ensemble's probabilities.
    """
    transfer = Transfer(dataset, config.views, setting.share, device)
    transfer.load(targets.shown)
    recipe = applied(setting, recipe)
    if config.views.count > 1:  # the views are the augmentation: the student sees what the teachers saw
        recipe = recipe.model_copy(update={"augment": recipe.augment.model_copy(update={"shift": 0.0, "flip": False})})
    return fit(
        network,
        transfer,
        _objective(transfer, targets.logits, setting, setting.chosen_loss(config.loss), recipe.label_smoothing),
        recipe,
        seed=seed,
        device=device,
        validate=validator(network, dataset, "val_search", device),
        validate_at=validate_at,
        on_epoch=on_epoch,
        what=what,
    )


def _objective(
    transfer: Transfer, targets: torch.Tensor, setting: Setting, loss: Loss, smoothing: float
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    soft, alpha, options = LOSSES[loss.name], setting.alpha, loss.options
    answers, known = transfer.answers(targets)
    all_known, classes = bool(known.all()), targets.shape[1]

    def objective(logits: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        items = items.to(targets.device)
        taught, y = targets[items], answers[items]
        value = alpha * soft(logits, taught, y, setting.temperature, **options)
        if alpha == 1:
            return value
        if all_known:
            return value + (1 - alpha) * cross_entropy(logits, y, label_smoothing=smoothing)
        exact = one_hot(y, classes) * (1 - smoothing) + smoothing / classes
        hard = torch.where(known[items][:, None], exact, taught.softmax(-1))
        return value + (1 - alpha) * cross_entropy(logits, hard)

    return objective


def train_student(
    capacity: Capacity,
    setting: Setting,
    config: Student,
    seed: int,
    data: Handle,
    ensemble: Handle,
    logits: list[Handle],
    store: Store,
    *,
    device: str = "cpu",
    on_epoch: OnEpoch | None = None,
) -> Handle:
    """The distilled student: ``model.safetensors``, ``student.json``, ``history.json``."""
    loss = setting.chosen_loss(config.loss)
    key = ["distilled", setting, loss, config.views, ensemble.fingerprint, [h.fingerprint for h in logits]]

    def train(network: nn.Module, dataset: Dataset, own_seed: int, record: OnEpoch) -> None:
        targets = Targets.load(data, config.views, ensemble, logits, device)
        what = f"student {capacity.name!r}"
        distil(
            network,
            dataset,
            targets,
            setting,
            config,
            config.recipe,
            seed=own_seed,
            device=device,
            validate_at=None,
            on_epoch=record,
            what=what,
        )

    return _stage("student", capacity, setting, config.recipe, key, seed, data, store, device, on_epoch, train)


def train_baseline(
    capacity: Capacity,
    setting: Setting,
    config: Student,
    seed: int,
    data: Handle,
    store: Store,
    *,
    device: str = "cpu",
    on_epoch: OnEpoch | None = None,
) -> Handle:
    """The same network with the same initial weights, on labels alone, augmented anew in every epoch.

    With the student's setting it is the plain baseline (its learning rate, weight decay and noise count); with a
    setting that was searched without a teacher, the tuned one.
    """
    recipe = applied(setting, config.recipe)

    def train(network: nn.Module, dataset: Dataset, own_seed: int, record: OnEpoch) -> None:
        what = f"baseline {capacity.name!r}"
        fit_classifier(network, dataset, recipe, own_seed, device, record, what, "val_search")

    return _stage("baseline", capacity, None, recipe, ["labels"], seed, data, store, device, on_epoch, train)


def _stage(
    role: str,
    capacity: Capacity,
    setting: Setting | None,
    recipe: Recipe,
    key: list[Any],
    seed: int,
    data: Handle,
    store: Store,
    device: str,
    on_epoch: OnEpoch | None,
    train: Callable[[nn.Module, Dataset, int, OnEpoch], None],
) -> Handle:
    own_seed = student_seed(seed, capacity)

    def build(work: Path) -> dict[str, Any]:
        dataset = Dataset(data)
        history: list[dict[str, float]] = []

        def record(epoch: int, figures: dict[str, float]) -> None:
            history.append(figures)
            if on_epoch is not None:
                on_epoch(epoch, figures)

        network = build_network(capacity, dataset.spec, own_seed)
        train(network, dataset, own_seed, record)
        save_network(network, work / "model.safetensors")
        write_json(work / "history.json", history)
        content = {"model": capacity.model_dump(), "setting": setting.model_dump() if setting else None}
        write_json(work / "student.json", content)
        rows = dataset.splits["val_search"]
        return quality(predict(network, dataset.inputs[rows], device=device), dataset.labels("val_search"))

    full_key = [VERSION, capacity.name, content_key(capacity), recipe, key, own_seed, data.fingerprint]
    return store.stage("students", f"{capacity.name}-{role}", full_key, build)


def student_seed(seed: int, capacity: Capacity) -> int:
    """Seed of the initial weights and batches, shared by all trials, students and baselines of a capacity."""
    return derive_seed(seed, "student", capacity.name)


def load_student(handle: Handle, spec: InputSpec) -> nn.Module:
    """The network of a `students` stage directory, in evaluation mode."""
    return load_network(handle.json("student.json")["model"], spec, handle.file("model.safetensors"))


def evaluate_on(handle: Handle, dataset: Dataset, split: str, batch_size: int = 1024) -> np.ndarray:
    """Logits float32 [N, C] of a student on a split."""
    return predict(load_student(handle, dataset.spec), dataset.inputs[dataset.splits[split]], batch_size=batch_size)
