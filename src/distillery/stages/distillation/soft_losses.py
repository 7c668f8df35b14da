"""The soft losses of a config: whether they can teach, and which settings they let train together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from distillery.config.search_space import Loss, Setting
from distillery.errors import InputError
from distillery.losses import LOSSES
from distillery.user_code import is_user_code


def check_loss(name: str, classes: int, where: str) -> None:
    """Refuses a loss that teaches nothing about so few classes.

    Raises:
        InputError: It does.
    """
    traits = LOSSES.traits(name)
    if is_user_code(name):
        _try_loss(name, classes, where)
    if classes < traits.get("min_classes", 2):
        raise InputError(
            f"{where}: loss {name!r} expects at least {traits['min_classes']} classes, got {classes}: {traits['dead']}"
        )


def _try_loss(name: str, classes: int, where: str) -> None:
    """Runs a user's own loss on two models at once, as training does."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 5, classes, generator=generator) for _ in range(2))
    student.requires_grad_()
    options = LOSSES.options(name)
    columns = {
        k: torch.full((2, 1, 1), float(f.default)) for k, f in options.model_fields.items() if not f.is_required()
    }
    if len(columns) < len(options.model_fields):
        return
    labels, temperature = torch.zeros(2, 5, dtype=torch.int64), torch.full((2, 1, 1), 2.0)
    try:
        value = LOSSES[name](student, teacher, labels, temperature, **columns)
        value.sum().backward()
    except Exception as error:
        raise InputError(f"{where}: loss {name!r} fails: {type(error).__name__}: {error}") from error
    if value.shape != (2,) or not torch.isfinite(value).all() or student.grad is None:
        raise InputError(
            f"{where}: loss {name!r}: expected a finite value for each of two models, shape [2], of logits [2, 5, "
            f"{classes}], with a gradient; got {value.detach().tolist()}"
        )


def together(settings: Sequence[Setting], default: Loss) -> list[list[int]]:
    """Places of the settings that may train together."""
    groups: dict[Any, list[int]] = {}
    for place, setting in enumerate(settings):
        loss = setting.chosen_loss(default)
        groups.setdefault((loss.name, tuple(loss.options), setting.epochs), []).append(place)
    return list(groups.values())
