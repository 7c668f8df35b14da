"""Tries a model of a config on its data before anything trains."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distillery.config.experiment import Model
from distillery.errors import InputError, first_line
from distillery.models import MODELS, GivenLogits, InputSpec
from distillery.models.given import in_class_order
from distillery.stages.teachers import estimator_files


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
