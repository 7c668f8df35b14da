"""Speed on images: distillation from cached logits, and the input of training."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import image_references as references
import numpy as np
import torch
from image_references import Lesson, Together
from ours import ours_batches
from pairs import Results, Side, paired
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

from distillery.config import config_file
from distillery.config.experiment import Capacity, Experiment
from distillery.config.search_space import Setting
from distillery.models import InputSpec
from distillery.stages.data import preparation
from distillery.stages.data.dataset import Dataset
from distillery.stages.distillation import distill
from distillery.stages.ensemble import weight_selection as ensemble
from distillery.stages.logits import logit_cache
from distillery.stages.teachers import groups, member_files, teacher_training
from distillery.store import Handle, Store
from distillery.training import networks
from distillery.training.single import predict

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".distillery" / "bench"
EPOCHS = 10  # of the students whose quality is told; measured calls of the rivals have fewer
SEEDS = 3  # of these students: what a network reaches varies by a point with its seed
OURS_EPOCHS = 12  # of a measured call
TEACHER_EPOCHS = (6, 11, 8)  # half the config's
CAPACITY = "resnet-12k"
SETTING = Setting(temperature=2.0, alpha=0.7)
INPUT_FILES = {32: 2000, 224: 192}
PHOTO = (375, 500)  # height and width of the files that are resized to 224 pixels


@dataclass(frozen=True)
class Task:
    """Digits as PNG files, three trained teachers, and the lesson for all."""

    experiment: Experiment
    data: Handle
    members: list[nn.Module]
    ensemble: Handle
    taught: list[Handle]
    targets: distill.Targets
    lesson: Lesson

    @property
    def dataset(self) -> Dataset:
        """The rows, opened."""
        return Dataset(self.data)

    @property
    def capacity(self) -> Capacity:
        """The student's architecture."""
        return next(c for c in self.experiment.student.capacities if c.name == CAPACITY)

    def student(self, seed: int = 0) -> nn.Module:
        """A fresh student; pixels of 0-255 in, a timm backbone inside."""
        return networks.build_network(self.capacity, self.dataset.spec, seed)

    def accuracy(self, train: Callable[[Task, int, int], nn.Module]) -> dict[str, float]:
        """On the test rows: mean, lowest and highest of several students that are trained so."""
        rows, labels = self.dataset.inputs[self.dataset.splits["test"]], self.dataset.labels("test")
        networks = [train(self, EPOCHS, seed) for seed in range(SEEDS)]
        found = [float((predict(network, rows).argmax(-1) == labels).mean()) for network in networks]
        return {"accuracy": float(np.mean(found)), "low": min(found), "high": max(found)}


def prepared(folder: Path) -> Task:
    """The chain of configs/digits.yaml up to the students, on files; what is trained stays in the benchmark's store."""
    write_digits(folder / "all")
    given = f"{{source: folder, path: {folder / 'all'}, image_size: 32, split: {{val_ensemble: 90, val_search: 90}}}}"
    experiment = config_file.load(
        ROOT / "configs/digits.yaml",
        [
            f"data={given}",
            "ensemble={weightings: [{name: uniform}], pools: [probs]}",  # what the peers' one teacher gives
            *(f"teachers.members.{number}.recipe.epochs={epochs}" for number, epochs in enumerate(TEACHER_EPOCHS)),
            "student.views.count=6",
        ],
    )
    store, rows = Store(HOME / ".distillery"), preparation.read_source(experiment.data)
    data = preparation.prepare(experiment.data, rows, store)
    members: list[Handle] = []
    for names, member in groups.in_one_go(experiment.teachers, data):
        recipe = experiment.teachers.recipe_of(member)
        members += teacher_training.train_teachers(names, member, recipe, experiment.seed, data, store)
    views = experiment.student.views
    on_val = [logit_cache.cache_logits(m, "val_ensemble", data, experiment.logits, store) for m in members]
    taught = [logit_cache.cache_logits(m, "transfer", data, experiment.logits, store, views=views) for m in members]
    pooled = ensemble.optimize_weights(members, on_val, data, experiment.ensemble, store)
    targets = distill.Targets.load(data, views, pooled, taught)
    opened = Dataset(data)
    for row in opened.splits["train"]:
        source = Path(rows.names[row])
        place = folder / "train" / source.parent.name / source.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source)
    networks = [member_files.load_member(m, opened).network for m in members]  # type: ignore[attr-defined]
    return Task(experiment, data, networks, pooled, taught, targets, _lesson(folder / "train", opened.spec, experiment))


def _lesson(folder: Path, spec: InputSpec, experiment: Experiment) -> Lesson:
    recipe, size = experiment.student.recipe, spec.shape[1]
    mean, std = (tuple(v / 255 for v in values) for values in (spec.mean, spec.std))
    shift = round(recipe.augment.shift * size)
    knobs = (recipe.batch_size, recipe.lr, recipe.weight_decay, SETTING.temperature, SETTING.alpha)
    return Lesson(folder, mean, std, size, shift, *knobs)


def write_digits(folder: Path) -> None:
    """scikit-learn's digits as RGB files of 32 x 32 pixels, 45 % of them below ``test``."""
    bunch = load_digits()
    held_out = np.random.default_rng(0).permutation(len(bunch.target)) < 0.45 * len(bunch.target)
    for number, (pixels, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        place = folder / ("test" if held_out[number] else "train") / str(label)
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8)).resize(
            (32, 32), Image.Resampling.BICUBIC
        )
        image.convert("RGB").save(place / f"{number:04d}.png")


def images(results: Results, pairs: int) -> None:
    """Line 3: an epoch of a student, taught by three networks."""
    with tempfile.TemporaryDirectory() as folder:
        task = prepared(Path(folder))
        ours = Side("an epoch from cached logits", partial(_ours, task, OURS_EPOCHS), OURS_EPOCHS)
        limits = paired([_bare(task, OURS_EPOCHS)], ours, pairs)
        results.row("3", "an epoch from cached logits, against bare steps", limits[0], 1.05, "times as dear", most=True)
        rivals = {"three teachers in the loop": (4, _in_the_loop), "timm's distillation task": (3, _timm)}
        if references.TORCHDISTILL:
            rivals["torchdistill"] = (3, _torchdistill)
        found = paired([Side(name, partial(train, task, 1)) for name, (_, train) in rivals.items()], ours, pairs)
        mine = task.accuracy(_ours)
        for (name, (goal, train)), measured in zip(rivals.items(), found, strict=True):
            quality = {"reference": task.accuracy(train), "candidate": mine}
            title = f"an epoch from cached logits, against {name}"
            results.row("3", title, measured, goal, "times as fast", quality=quality)


def _ours(task: Task, epochs: int, seed: int = 0) -> nn.Module:
    network, config = task.student(seed), task.experiment.student
    recipe = config.recipe.model_copy(update={"epochs": epochs})
    distill.distil([network], task.dataset, task.targets, [SETTING], [seed], config, recipe)
    return network


def _bare(task: Task, epochs: int) -> Side:
    opened, lesson = task.dataset, task.lesson
    rows = opened.splits["train"]
    batch = torch.from_numpy(opened.inputs[rows[: lesson.batch]]).float()
    taught, labels = task.targets.logits[: lesson.batch], torch.from_numpy(opened.labels("train")[: lesson.batch])
    steps = epochs * (len(rows) // lesson.batch)

    def work() -> None:
        references.bare_steps(task.student(), lesson, batch, taught, labels, steps)

    return Side("bare student steps on a resident batch", work, epochs)


def _in_the_loop(task: Task, epochs: int, seed: int = 0) -> nn.Module:
    network, opened = _seeded(task, seed), task.dataset
    pixels = torch.from_numpy(opened.inputs[opened.splits["train"]])
    labels = torch.from_numpy(opened.labels("train"))
    references.teachers_in_the_loop(network, Together(task.members), task.lesson, pixels, labels, epochs)
    return network


def _timm(task: Task, epochs: int, seed: int = 0) -> nn.Module:
    network = _seeded(task, seed)
    references.timm_task(network.get_submodule("backbone"), _backbones(task), task.lesson, epochs)
    return network


def _torchdistill(task: Task, epochs: int, seed: int = 0) -> nn.Module:
    network = _seeded(task, seed)
    references.torchdistill_box(network.get_submodule("backbone"), _backbones(task), task.lesson, epochs)
    return network


def _seeded(task: Task, seed: int) -> nn.Module:
    """A fresh student; the loop that trains it draws its batches from torch's own generator."""
    network = task.student(seed)
    torch.manual_seed(seed)
    return network


def _backbones(task: Task) -> nn.Module:
    """The ensemble for images that the loader has normalised."""
    return Together([member.get_submodule("backbone") for member in task.members])


def images_input(results: Results, pairs: int) -> None:
    """Line 4: an image on its way into a batch: shifted, mirrored, normalised."""
    for size, goal in ((32, 25), (224, 8)):
        with tempfile.TemporaryDirectory() as folder:
            files = Path(folder) / "files"
            write_photos(files, size, INPUT_FILES[size])
            split = "split={val_ensemble: 8, val_search: 8, test: 8}"
            experiment = config_file.load(
                ROOT / "configs/digits.yaml",
                [f"data={{source: folder, path: {files}, image_size: {size}}}", f"data.{split}"],
            )
            data = preparation.prepare(
                experiment.data, preparation.read_source(experiment.data), Store(Path(folder) / "store")
            )
            opened = Dataset(data)
            epochs = 8
            ours = Side("the pack", partial(_read_pack, opened, size, epochs), epochs * len(opened.splits["train"]))
            theirs = Side("ImageFolder DataLoader", partial(_read_folder, files, opened.spec), INPUT_FILES[size])
            [measured] = paired([theirs], ours, pairs)
        kind = "PNG of this size" if size == 32 else f"JPEG of {PHOTO[1]} x {PHOTO[0]}"
        results.row("4", f"images of {size} pixels ({kind}), crop, flip, normalise", measured, goal, "times as fast")


def _read_pack(opened: Dataset, size: int, epochs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for batch in ours_batches(opened, 64, _padding(size) / size, generator, epochs):
        assert batch.dtype == torch.float32


def _read_folder(files: Path, spec: InputSpec) -> None:
    size = spec.shape[1]
    resize = [transforms.Resize(size), transforms.CenterCrop(size)] if size > 32 else []
    lesson = _plain_lesson(files, spec)
    change = [*resize, transforms.RandomCrop(size, padding=_padding(size)), transforms.RandomHorizontalFlip()]
    for batch, _ in DataLoader(references.image_folder(files, lesson, *change), batch_size=64, shuffle=True):
        assert batch.dtype == torch.float32


def _plain_lesson(files: Path, spec: InputSpec) -> Lesson:
    mean, std = (tuple(v / 255 for v in values) for values in (spec.mean, spec.std))
    return Lesson(files, mean, std, spec.shape[1], 0, 64, 0.0, 0.0, 1.0, 1.0)


def _padding(size: int) -> int:
    return size // 8


def write_photos(folder: Path, size: int, count: int) -> None:
    """Pieces of scikit-learn's two photographs, in two classes: PNG of 32 x 32 pixels, or JPEG to be resized to 224."""
    photos, generator = load_sample_images().images, np.random.default_rng(0)
    height, width = (size, size) if size == 32 else PHOTO
    for number in range(count):
        pixels = photos[number % 2]
        top, left = (
            int(generator.integers(0, have - want + 1))
            for have, want in zip(pixels.shape, (height, width), strict=False)
        )
        place = folder / str(number % 2)
        place.mkdir(parents=True, exist_ok=True)
        piece = Image.fromarray(pixels[top : top + height, left : left + width])
        piece.save(place / f"{number:05d}{'.png' if size == 32 else '.jpg'}")
