"""Opens trained students and baselines again. N rows, C classes."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import JsonValue
from torch import nn

from distillery.errors import InputError
from distillery.models import MODELS, InputSpec
from distillery.stages.data.dataset import Dataset
from distillery.stages.distillation.calibration import Calibrated
from distillery.store import Handle
from distillery.store.record import Record
from distillery.training.networks import load_network
from distillery.training.single import predict

HELD_OUT_LOGITS = "held_out_logits.npy"


class StudentRecord(Record):
    """``student.json``: the network of a student or a baseline, and how it was trained.

    Attributes:
        model: Values of `Capacity`.
        setting: Values of `Setting`; None for a baseline.
        recipe: Values of `Recipe`, with the setting's own values in it.
        calibration_temperature: What the network's logits are divided by.
    """

    FILE: ClassVar[str] = "student.json"

    schema_version: Literal[1] = 1
    model: dict[str, JsonValue]
    setting: dict[str, JsonValue] | None
    recipe: dict[str, JsonValue]
    calibration_temperature: float


def load_student(handle: Handle, spec: InputSpec) -> nn.Module:
    """The network of a `students` stage directory with its calibration, in evaluation mode.

    Raises:
        InputError: It is of code of a user's own that no config of this process has named.
    """
    record = StudentRecord.read(handle)
    family = str(record.model["family"])
    if family not in MODELS:  # a file does not decide whose code is run
        file = handle.file(record.FILE)
        raise InputError(f"{file}: expected a family that the config names, got {family!r}")
    network = load_network(record.model, spec, handle.file("model.safetensors"))
    return Calibrated(network, record.calibration_temperature).eval()


def evaluate_on(handle: Handle, dataset: Dataset, split: str, batch_size: int = 1024) -> np.ndarray:
    """Logits float32 [N, C] of a student on a split; see `held_out_logits` for rows that it has learned."""
    network = load_student(handle, dataset.spec)
    return predict(network, dataset.inputs, dataset.splits[split], batch_size=batch_size)


def held_out_logits(handle: Handle) -> np.ndarray:
    """Calibrated logits float32 [rows of train, C] of a student that was judged by folds: see `train_students`."""
    return np.asarray(np.load(handle.file(HELD_OUT_LOGITS)))
