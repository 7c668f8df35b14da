"""Stage `students`: one small network, taught by the ensemble's cached logits, and the same one without a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from distillery.calibration import Calibrated, calibrated
from distillery.cohorts import stacks, within_memory
from distillery.config import Capacity, Recipe, Student, Views
from distillery.dataset import LEARNED, Dataset
from distillery.devices import resolved
from distillery.ensemble import teacher_logits
from distillery.errors import InputError
from distillery.logits import check_belongs
from distillery.member_keys import content_key
from distillery.memory import resident_bytes
from distillery.metrics import quality
from distillery.models import MODELS, InputSpec
from distillery.soft_losses import together
from distillery.space import Setting
from distillery.store import Handle, Store, fingerprint, write_json
from distillery.teachers import (
    OnEpochOf,
    build_network,
    derive_seed,
    fit_classifiers,
    load_network,
    save_network,
    validation_on,
)
from distillery.training.alone import predict
from distillery.training.fit import Course, Learner, OnEpochs, Validation, fit
from distillery.training.objectives import Answers, Taught
from distillery.transfer import Transfer

VERSION = 5


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
        logits: The ensemble's, float32 [V · N, C], of the whole transfer set; on the device where they fit into memory.
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
        pooled = torch.from_numpy(teacher_logits(ensemble, logits))
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
    device: str = "cpu",
    validation: Validation | None = None,
    on_epochs: OnEpochs | None = None,
) -> list[Course]:
    """Trains `networks` together on ``alpha · soft + (1 - alpha) · CE`` over the items of the transfer set.

    The cross-entropy is with the row's label; where an item has none, with the ensemble's probabilities. All settings
    have the same loss and number of epochs (see `together`).
    """
    transfers: dict[float | None, Transfer] = {}
    for share in dict.fromkeys(setting.share for setting in settings):
        transfers[share] = Transfer(dataset, config.views, share, device)
        transfers[share].load(targets.shown)
    recipes = [applied(setting, recipe) for setting in settings]
    if config.views.count > 1:  # the views are the augmentation: the student sees what the teachers saw
        still = {"shift": 0.0, "flip": False, "light": 0.0}
        recipes = [r.model_copy(update={"augment": r.augment.model_copy(update=still)}) for r in recipes]
    learners = [
        Learner(network, own, seed, transfers[setting.share])
        for network, own, seed, setting in zip(networks, recipes, seeds, settings, strict=True)
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


@dataclass(frozen=True)
class Wanted:
    """One network of a capacity: how it is trained, and the experiment's or a repeat's seed."""

    setting: Setting
    seed: int


def train_students(
    capacity: Capacity,
    wanted: Sequence[Wanted],
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

    Those that are not there yet train together where their networks and settings allow it.
    """
    device = resolved(device)
    shared = [config.views, ensemble.fingerprint, [h.fingerprint for h in logits]]
    keys = [["distilled", w.setting, w.setting.chosen_loss(config.loss), *shared] for w in wanted]

    def train(networks: list[nn.Module], dataset: Dataset, mine: list[Wanted], **options: Any) -> list[Course]:
        targets = Targets.load(data, config.views, ensemble, logits, device)
        settings, seeds = [w.setting for w in mine], [student_seed(w.seed, capacity) for w in mine]
        return distil(networks, dataset, targets, settings, seeds, config, config.recipe, device=device, **options)

    made = _Making("student", capacity, list(wanted), [config.recipe] * len(wanted), data, device, on_epoch, train)
    return made.handles(keys, together([w.setting for w in wanted], config.loss), store)


def train_baselines(
    capacity: Capacity,
    wanted: Sequence[Wanted],
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
    """
    device = resolved(device)
    recipes = [applied(w.setting, config.recipe) for w in wanted]

    def train(networks: list[nn.Module], dataset: Dataset, mine: list[Wanted], **options: Any) -> list[Course]:
        own = [applied(w.setting, config.recipe) for w in mine]
        seeds = [student_seed(w.seed, capacity) for w in mine]
        return fit_classifiers(networks, dataset, own, seeds, device=device, **options)

    labels_only = [Setting(epochs=w.setting.epochs) for w in wanted]
    made = _Making("baseline", capacity, list(wanted), recipes, data, device, on_epoch, train)
    return made.handles([["labels"]] * len(wanted), together(labels_only, config.loss), store)


@dataclass(frozen=True)
class _Making:
    """Networks of one capacity on their way into the store."""

    role: str
    capacity: Capacity
    wanted: list[Wanted]
    recipes: list[Recipe]
    data: Handle
    device: str
    on_epoch: OnEpochOf | None
    train: Callable[..., list[Course]]

    def handles(self, keys: list[list[Any]], groups: list[list[int]], store: Store) -> list[Handle]:
        """The stage directories, found or made, group by group."""
        model = [VERSION, self.capacity.name, content_key(self.capacity)]
        seeds = [student_seed(w.seed, self.capacity) for w in self.wanted]
        name = f"{self.capacity.name}-{self.role}"
        found: dict[int, Handle] = {}
        rows = Dataset(self.data).digest(*LEARNED)
        for group in self._stacked(groups):
            entries = [(name, [*model, self.recipes[i], keys[i], seeds[i], rows]) for i in group]
            made = store.stages("students", entries, partial(self._build, group=group))
            found |= dict(zip(group, made, strict=True))
        return [found[i] for i in range(len(self.wanted))]

    def _stacked(self, groups: list[list[int]]) -> list[list[int]]:
        spec = Dataset(self.data).spec
        if not stacks(self.capacity, spec.kind):
            return [[place] for group in groups for place in group]
        return within_memory(groups, self.capacity, spec, self.recipes[0], self.device)

    def _build(self, works: dict[int, Path], group: list[int]) -> dict[int, dict[str, Any] | Exception]:
        # All of the group, also where some are there already: in a smaller stack the others would be rounded otherwise.
        dataset, mine = Dataset(self.data), [self.wanted[place] for place in group]
        networks = [build_network(self.capacity, dataset.spec, student_seed(w.seed, self.capacity)) for w in mine]

        def record(epoch: int, records: dict[int, dict[str, float]]) -> tuple[()]:
            for number, figures in records.items():
                if self.on_epoch is not None and number in works:
                    self.on_epoch(group[number], epoch, figures)
            return ()

        validation = validation_on("val_search", dataset)
        courses = self.train(networks, dataset, mine, validation=validation, on_epochs=record)
        return {
            place: self._keep(works[place], networks[place], group[place], courses[place], dataset) for place in works
        }

    def _keep(
        self, work: Path, network: nn.Module, number: int, course: Course, dataset: Dataset
    ) -> dict[str, Any] | Exception:
        if course.error is not None:
            return FloatingPointError(f"{self.role} {self.capacity.name!r}: {course.error}")
        save_network(network, work / "model.safetensors")
        write_json(work / "history.json", course.history)
        sure = calibrated(network, dataset, self.device)
        temperature, setting = float(sure.temperature), self.wanted[number].setting
        content = {
            "model": self.capacity.model_dump(),
            "setting": setting.model_dump() if self.role == "student" else None,
            "recipe": applied(setting, self.recipes[number]).model_dump(),
            "calibration_temperature": temperature,
        }
        write_json(work / "student.json", content)
        rows = dataset.splits["val_search"]
        figures = quality(predict(sure, dataset.inputs, rows, device=self.device), dataset.labels("val_search"))
        return figures | {"calibration_temperature": temperature}


def student_seed(seed: int, capacity: Capacity) -> int:
    """Seed of the initial weights and batches, shared by all trials, students and baselines of a capacity."""
    return derive_seed(seed, "student", capacity.name)


def load_student(handle: Handle, spec: InputSpec) -> nn.Module:
    """The network of a `students` stage directory with its calibration, in evaluation mode.

    Raises:
        InputError: It is of code of a user's own that no config of this process has named.
    """
    content = handle.json("student.json")
    if (family := content["model"]["family"]) not in MODELS:  # a file does not decide whose code is run
        raise InputError(f"{handle.file('student.json')}: expected a family that the config names, got {family!r}")
    network = load_network(content["model"], spec, handle.file("model.safetensors"))
    return Calibrated(network, content["calibration_temperature"]).eval()


def evaluate_on(handle: Handle, dataset: Dataset, split: str, batch_size: int = 1024) -> np.ndarray:
    """Logits float32 [N, C] of a student on a split."""
    network = load_student(handle, dataset.spec)
    return predict(network, dataset.inputs, dataset.splits[split], batch_size=batch_size)
