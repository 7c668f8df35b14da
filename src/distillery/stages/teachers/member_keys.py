"""What determines a trained member: it names the directory of its stage."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from distillery.config.experiment import Model, Recipe, Teacher
from distillery.stages.data.dataset import Dataset
from distillery.store import Handle, checksum
from distillery.training.networks import NOT_BUILT_FROM


def content_key(model: Model) -> list[Any]:
    """What determines a model before training: family and options, and the content of the files that they name.

    Where a file lies does not count, so that another machine or folder gives the same.
    """
    source = {k: v for k, v in model.model_dump().items() if k not in ("copies", "recipe", "name")}
    for option in ("path", "checkpoint"):
        if source.get(option):
            source[option] = checksum(Path(source[option]).expanduser())
    return [source]


def learned_from(teacher: Teacher, data: Handle) -> str:
    """What a teacher rests on: the training rows; given logits are looked up by the row's number in the source."""
    if teacher.family == "given":
        return data.fingerprint
    dataset = Dataset(data)
    # With folds, the answers on val_ensemble are those on train, and its digest says which row is in which fold.
    return dataset.digest("train") if dataset.folds is None else dataset.digest("val_ensemble")


def made_from(teacher: Teacher, recipe: Recipe | None, seed: int, data: Handle) -> dict[str, Any]:
    """All that determines a trained member, as JSON gives it back."""
    files = ("path", "checkpoint")  # their content counts, not where they lie
    found = {
        "model": {k: v for k, v in teacher.model_dump().items() if k not in (*NOT_BUILT_FROM, *files)},
        "content": content_key(teacher),
        "recipe": None if recipe is None else recipe.model_dump(mode="json"),
        "library": _library(teacher) if recipe is None else None,
        "seed": seed,
        "left_out": None if teacher.family == "given" else Dataset(data).left_out,
        "learned_from": learned_from(teacher, data),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _library(teacher: Teacher) -> str | None:
    """The library of an estimator, and its version, which alone can be relied on to open what it kept."""
    name = teacher.options.get("estimator", "").partition(".")[0]
    if not name:
        return None
    return f"{name} {getattr(importlib.import_module(name), '__version__', 'unknown')}"
