"""Trains networks on the ensemble's soft targets: the one function that trials and final students share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distillery.config.experiment import Capacity, Recipe, Student, Views
from distillery.config.search_space import Setting
from distillery.memory import resident_bytes
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.transfer_set import Transfer
from distillery.stages.ensemble.weight_selection import teacher_logits
from distillery.stages.logits.logit_cache import check_belongs, fold_of
from distillery.store import Handle, fingerprint
from distillery.training.fit import OnEpochs, TrainJob, TrainResult, Validation, fit
from distillery.training.networks import derive_seed
from distillery.training.objectives import Answers, Taught


def applied(setting: Setting, recipe: Recipe) -> Recipe:
    """The recipe with the setting's own values in it."""
    names = ("lr", "weight_decay", "label_smoothing", "epochs")
    changes: dict[str, Any] = {k: getattr(setting, k) for k in names if getattr(setting, k) is not None}
    if setting.noise is not None:
        changes["augment"] = recipe.augment.model_copy(update={"noise": setting.noise})
    return recipe.model_copy(update=changes)


@dataclass(frozen=True)
class Targets:
    """What students of one ensemble learn from.

    Attributes:
        logits: The ensemble's, float32 [V · N, C], of the whole transfer set, and with folds those without each fold
            after them, [(1 + K) · V · N, C]; on the device where they fit into memory.
        shown: The transfer set's inputs [V · N, ...], where they fit into memory.
    """

    logits: torch.Tensor
    shown: torch.Tensor | None

    @classmethod
    def load(cls, data: Handle, views: Views, ensemble: Handle, logits: list[Handle], device: str = "cpu") -> Targets:
        """Reads and pools the members' logits on the transfer set; a process keeps the last ones for whoever is next.

        Raises:
            InputError: They were made for other data or views.
        """
        key = fingerprint(data.path, ensemble.path, [h.path for h in logits], views, device)
        if key not in _kept:
            _kept.clear()
            _kept[key] = cls._read(data, views, ensemble, logits, device)
        return _kept[key]

    @classmethod
    def _read(cls, data: Handle, views: Views, ensemble: Handle, logits: list[Handle], device: str) -> Targets:
        check_belongs(logits, data, views)
        by_fold: dict[int | None, list[Handle]] = {}
        for handle in logits:
            by_fold.setdefault(fold_of(handle), []).append(handle)
        parts = [torch.from_numpy(teacher_logits(ensemble, own)) for own in by_fold.values()]
        pooled = parts[0] if len(parts) == 1 else torch.cat(parts)
        pooled = pooled.to(device) if pooled.nbytes <= resident_bytes(device) else pooled
        return cls(pooled, Transfer(Dataset(data), views, device=device).load())


_kept: dict[str, Targets] = {}


def distil(
    networks: Sequence[nn.Module],
    dataset: Dataset,
    targets: Targets,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    config: Student,
    recipe: Recipe,
    *,
    folds: Sequence[int | None] | None = None,
    device: str = "cpu",
    validation: Validation | None = None,
    on_epochs: OnEpochs | None = None,
) -> list[TrainResult]:
    """Trains `networks` together on ``alpha · soft + (1 - alpha) · CE`` over the items of the transfer set.

    The cross-entropy is with the row's label; where an item has none, with the ensemble's probabilities. All settings
    have the same loss and number of epochs (see `together`). With `folds`, each network learns without a fold of its
    own, from teachers that have not seen it either.
    """
    left_out = [None] * len(networks) if folds is None else folds
    transfers: dict[tuple[float | None, int | None], Transfer] = {}
    for setting, fold in zip(settings, left_out, strict=True):
        share = setting.unlabeled_fraction
        if (share, fold) not in transfers:
            transfers[share, fold] = Transfer(dataset, config.views, share, device, fold)
            transfers[share, fold].load(targets.shown)
    recipes = [applied(setting, recipe) for setting in settings]
    if config.views.count > 1:  # the views are the augmentation: the student sees what the teachers saw
        still = {"shift": 0.0, "flip": False, "brightness": 0.0}
        recipes = [r.model_copy(update={"augment": r.augment.model_copy(update=still)}) for r in recipes]
    learners = [
        TrainJob(network, own, seed, transfers[setting.unlabeled_fraction, fold])
        for network, own, seed, setting, fold in zip(networks, recipes, seeds, settings, left_out, strict=True)
    ]
    labels, known = learners[0].batches.answers(targets.logits)  # type: ignore[attr-defined]
    losses = [setting.chosen_loss(config.loss) for setting in settings]
    objective = Taught(
        targets.logits,
        Answers(labels.to(device), None if known.all() else known.to(device), targets.logits.shape[1]),
        losses[0].name,
        [loss.options for loss in losses],
        [setting.temperature for setting in settings],
        [setting.alpha for setting in settings],
        [own.label_smoothing for own in recipes],
    )
    return fit(learners, objective, device=device, validation=validation, on_epochs=on_epochs)


def student_seed(seed: int, capacity: Capacity) -> int:
    """Seed of the initial weights and batches, shared by all trials, students and baselines of a capacity."""
    return derive_seed(seed, "student", capacity.name)
