"""Stage `students`: one small network, taught by the ensemble's cached logits, and the same one without a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn

from distillery.config import Capacity, Loss, Recipe, Student
from distillery.dataset import Dataset
from distillery.ensemble import teacher_logits
from distillery.losses import LOSSES
from distillery.metrics import quality
from distillery.models import InputSpec
from distillery.sections import Section
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
from distillery.training.fit import Inputs, OnEpoch, fit, predict

VERSION = 1


class Setting(Section):
    """What the search chose for a student. None keeps the recipe's own value."""

    temperature: float = Field(gt=0)
    alpha: float = Field(ge=0, le=1)
    lr: float | None = None
    weight_decay: float | None = None

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with the setting's learning rate and weight decay."""
        changes = {k: getattr(self, k) for k in ("lr", "weight_decay") if getattr(self, k) is not None}
        return recipe.model_copy(update=changes)


def distil(
    network: nn.Module,
    dataset: Dataset,
    targets_NC: np.ndarray,
    setting: Setting,
    recipe: Recipe,
    loss: Loss,
    *,
    seed: int,
    device: str = "cpu",
    on_epoch: OnEpoch | None = None,
    what: str = "student",
) -> list[dict[str, float]]:
    """Trains `network` on ``alpha · soft + (1 - alpha) · CE`` against the ensemble's logits on train.

    With logits [views · N, C] for several views, every epoch shows one view and its own targets.
    """
    labels = torch.from_numpy(dataset.labels("train")).to(device)
    targets = torch.from_numpy(targets_NC).to(device)
    soft, hard = LOSSES[loss.name], nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    alpha, temperature, options = setting.alpha, setting.temperature, loss.options
    views = len(targets) // len(labels)
    inputs = Inputs(dataset.inputs, dataset.splits["train"], device, views, recipe.augment)

    def objective(logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        positions = positions.to(labels.device)
        y = labels[positions]
        value = alpha * soft(logits, targets[inputs.view * len(labels) + positions], y, temperature, **options)
        return value + (1 - alpha) * hard(logits, y) if alpha < 1 else value

    return fit(
        network,
        inputs,
        objective,
        setting.applied(recipe),
        seed=seed,
        device=device,
        validate=validator(network, dataset, "val_search", device) if on_epoch is not None else None,
        on_epoch=on_epoch,
        what=what,
    )


def train_student(
    capacity: Capacity,
    setting: Setting,
    config: Student,
    seed: int,
    data: Handle,
    ensemble: Handle,
    train_logits: list[Handle],
    store: Store,
    *,
    device: str = "cpu",
    on_epoch: OnEpoch | None = None,
) -> Handle:
    """The distilled student: ``model.safetensors``, ``student.json``, ``history.json``."""
    key = ["distilled", setting, config.loss, ensemble.fingerprint, [h.fingerprint for h in train_logits]]

    def train(network: nn.Module, dataset: Dataset, own_seed: int, record: OnEpoch) -> None:
        targets = teacher_logits(ensemble, train_logits)
        distil(
            network,
            dataset,
            targets,
            setting,
            config.recipe,
            config.loss,
            seed=own_seed,
            device=device,
            on_epoch=record,
            what=f"student {capacity.name!r}",
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
    """The plain baseline: same network, initial weights, batches, learning rate and weight decay; labels only."""
    recipe = setting.applied(config.recipe)

    def train(network: nn.Module, dataset: Dataset, own_seed: int, record: OnEpoch) -> None:
        what = f"baseline {capacity.name!r}"
        fit_classifier(network, dataset, recipe, own_seed, device, record, what, "val_search", config.views)

    return _stage(
        "baseline", capacity, None, recipe, ["plain", config.views], seed, data, store, device, on_epoch, train
    )


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
    train: Any,
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
