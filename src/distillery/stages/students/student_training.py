"""Stage `students`: one small network, taught by the ensemble's cached logits, and the same one without a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from distillery.config.experiment import Capacity, Recipe, Student
from distillery.config.search_space import Setting
from distillery.devices import resolved
from distillery.errors import InputError
from distillery.models import MODELS, InputSpec
from distillery.ops.metrics import quality
from distillery.stages.data.dataset import LEARNED, Dataset
from distillery.stages.distillation.calibration import Calibrated, calibrated
from distillery.stages.distillation.distill import Targets, applied, distil, student_seed
from distillery.stages.distillation.soft_losses import together
from distillery.stages.teachers.member_keys import content_key
from distillery.stages.teachers.teacher_training import OnEpochOf, fit_classifiers, validation_on
from distillery.store import Handle, Store, write_json
from distillery.training.fit import TrainResult
from distillery.training.networks import build_network, load_network, save_network
from distillery.training.single import predict
from distillery.training.stack_size import stacks, within_memory

VERSION = 5


@dataclass(frozen=True)
class TrainingRequest:
    """One network of a capacity: how it is trained, and the experiment's or a repeat's seed."""

    setting: Setting
    seed: int


def train_students(
    capacity: Capacity,
    wanted: Sequence[TrainingRequest],
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

    def train(
        networks: list[nn.Module], dataset: Dataset, mine: list[TrainingRequest], **options: Any
    ) -> list[TrainResult]:
        targets = Targets.load(data, config.views, ensemble, logits, device)
        settings, seeds = [w.setting for w in mine], [student_seed(w.seed, capacity) for w in mine]
        return distil(networks, dataset, targets, settings, seeds, config, config.recipe, device=device, **options)

    made = _Making("student", capacity, list(wanted), [config.recipe] * len(wanted), data, device, on_epoch, train)
    return made.handles(keys, together([w.setting for w in wanted], config.loss), store)


def train_baselines(
    capacity: Capacity,
    wanted: Sequence[TrainingRequest],
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

    def train(
        networks: list[nn.Module], dataset: Dataset, mine: list[TrainingRequest], **options: Any
    ) -> list[TrainResult]:
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
    wanted: list[TrainingRequest]
    recipes: list[Recipe]
    data: Handle
    device: str
    on_epoch: OnEpochOf | None
    train: Callable[..., list[TrainResult]]

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
        self, work: Path, network: nn.Module, number: int, course: TrainResult, dataset: Dataset
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
