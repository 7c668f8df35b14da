"""Image distillation to compare with: bare steps, teachers in the loop, timm's task and torchdistill.

All train the same student (a timm backbone), with the same batch size, epochs and optimizer. Peers get the ensemble as
their one teacher and read the images with the loader that their own training scripts use, in this process: worker
processes would cost the same CPU seconds and more.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm.data
import timm.optim
import torch
from timm.task import LogitDistillationTask
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR
from torchvision import datasets, transforms

from distillery.losses.kd import kd

TORCHDISTILL = importlib.util.find_spec("torchdistill") is not None


@dataclass(frozen=True)
class Lesson:
    """What is the same for all.

    Attributes:
        folder: ``<class>/*.png``, the images of train.
        mean: Of their channels, on the scale 0-1.
        std: Likewise.
        shift: Largest random shift, pixels.
    """

    folder: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    shift: int
    batch: int
    lr: float
    weight_decay: float
    temperature: float
    alpha: float

    def loss(self, logits: torch.Tensor, taught: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """``alpha · T² · KL + (1 - alpha) · CE``."""
        soft = kd(logits, taught, labels, self.temperature)
        return self.alpha * soft + (1 - self.alpha) * cross_entropy(logits, labels)


class Together(nn.Module):
    """Several teachers as one: the logarithm of their mean probability."""

    def __init__(self, teachers: list[nn.Module]) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers).eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of images [B, ...]."""
        return torch.stack([teacher(images).log_softmax(-1) for teacher in self.teachers]).logsumexp(0)


def bare_steps(
    student: nn.Module, lesson: Lesson, batch: torch.Tensor, taught: torch.Tensor, labels: torch.Tensor, steps: int
) -> None:
    """Forward, loss, backward and update on one resident batch, again and again: nothing can be left out."""
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=lesson.lr, weight_decay=lesson.weight_decay, fused=True)
    for _ in range(steps):
        loss = lesson.loss(student(batch), taught, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def teachers_in_the_loop(
    student: nn.Module, teacher: nn.Module, lesson: Lesson, pixels: torch.Tensor, labels: torch.Tensor, epochs: int
) -> None:
    """Every step asks the teachers; images uint8 [N, ...] lie in memory and are shifted by the batch."""
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=lesson.lr, weight_decay=lesson.weight_decay)
    schedule = CosineAnnealingLR(optimizer, epochs)
    crop = transforms.RandomCrop(lesson.size, padding=lesson.shift, padding_mode="edge")
    for _ in range(epochs):
        for items in torch.randperm(len(pixels))[: len(pixels) // lesson.batch * lesson.batch].split(lesson.batch):
            images = crop(pixels[items]).float()
            with torch.no_grad():
                taught = teacher(images)
            loss = lesson.loss(student(images), taught, labels[items])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()


def timm_task(student: nn.Module, teacher: nn.Module, lesson: Lesson, epochs: int) -> None:
    """timm's LogitDistillationTask on timm's loader, as its training script puts them together."""
    loader = timm.data.create_loader(
        timm.data.ImageDataset(str(lesson.folder)),
        (3, lesson.size, lesson.size),
        lesson.batch,
        is_training=True,
        train_crop_mode="rkrr",
        scale=(0.9, 1.0),
        ratio=(1.0, 1.0),
        hflip=0.0,
        color_jitter=None,  # type: ignore[arg-type]
        mean=lesson.mean,
        std=lesson.std,
        num_workers=0,
        use_prefetcher=False,
        device=torch.device("cpu"),
    )
    task = LogitDistillationTask(
        student,
        teacher,
        nn.CrossEntropyLoss(),
        distill_loss_weight=lesson.alpha,
        task_loss_weight=1 - lesson.alpha,
        temperature=lesson.temperature,
        verbose=False,
    )
    optimizer = timm.optim.create_optimizer_v2(student, "adamw", lesson.lr, lesson.weight_decay)
    schedule = CosineAnnealingLR(optimizer, epochs)
    task.train()
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            task(images, labels)["loss"].backward()
            optimizer.step()
        schedule.step()


def torchdistill_box(student: nn.Module, teacher: nn.Module, lesson: Lesson, epochs: int) -> None:
    """torchdistill's DistillationBox with its KDLoss on an ImageFolder, as its image example puts them together."""
    from torchdistill.core.distillation import get_distillation_box  # type: ignore[import-not-found]

    logging.getLogger("torchdistill").setLevel(logging.ERROR)
    images = image_folder(lesson.folder, lesson, transforms.RandomCrop(lesson.size, padding=lesson.shift))
    box = get_distillation_box(
        teacher,
        student,
        {"train": images},
        _box_config(lesson, epochs),
        torch.device("cpu"),
        device_ids=None,
        distributed=False,
        lr_factor=1,
    )
    for epoch in range(epochs):
        box.pre_epoch_process(epoch=epoch)
        for batch, labels, more in box.train_data_loader:
            box.post_forward_process(loss=box.forward_process(batch, labels, more))
        box.post_epoch_process()


def _box_config(lesson: Lesson, epochs: int) -> dict[str, Any]:
    loss: dict[str, Any] = {"student_module_path": ".", "student_module_io": "output", "teacher_module_path": "."}
    # Its alpha is the weight of the cross-entropy.
    loss |= {"teacher_module_io": "output", "temperature": lesson.temperature, "alpha": 1 - lesson.alpha}
    sampler = {"class_or_func": torch.utils.data.RandomSampler}
    kwargs = {"batch_size": lesson.batch, "num_workers": 0, "drop_last": True}
    return {
        "num_epochs": epochs,
        "train_data_loader": {"dataset_id": "train", "sampler": sampler, "kwargs": kwargs},
        "teacher": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "sequential": []},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": lesson.lr, "weight_decay": lesson.weight_decay}},
        "scheduler": {"key": "CosineAnnealingLR", "kwargs": {"T_max": epochs}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}},
        },
    }


def image_folder(folder: Path, lesson: Lesson, *change: Callable[..., Any]) -> datasets.ImageFolder:
    """torchvision's folder of images with changes, ToTensor and Normalize."""
    steps = [*change, transforms.ToTensor(), transforms.Normalize(lesson.mean, lesson.std)]
    return datasets.ImageFolder(str(folder), transforms.Compose(steps))
