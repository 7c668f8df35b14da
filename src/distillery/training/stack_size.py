"""How many networks train in one go: those of one shape, as many as the processor's cache or the memory holds."""

from __future__ import annotations

import logging

import psutil
import torch
from torch import nn

from distillery.config.experiment import Model, Recipe
from distillery.devices import is_cuda
from distillery.memory import free_on_gpu
from distillery.models import MODELS, InputSpec
from distillery.training.stackable import plan_of

CACHE_BYTES = 8 << 20  # of weights and activations that a core has close at hand
COPIES = 7  # of the weights: AdamW's state, the gradient, and what is their own to each network

log = logging.getLogger(__name__)


def stacks(model: Model, kind: str) -> bool:
    """Whether networks of this family train together on such data."""
    return kind in MODELS.traits(model.family).get("stacks", ())


def stack_size(model: Model, recipe: Recipe, spec: InputSpec, device: str = "cpu") -> int:
    """How many networks had best train together: on a CPU as many as fit its cache, on a GPU as many as there are.

    Measured: beside other work on the same processor, twelve networks of 46,658 parameters take 1.5 times as long in
    one stack as in stacks of three.
    """
    if not stacks(model, spec.kind):
        return 1
    return _room(_outline(model, spec), recipe, CACHE_BYTES) if device == "cpu" else 1 << 20


def within_memory(
    groups: list[list[int]], model: Model, spec: InputSpec, recipe: Recipe, device: str, networks: int = 1
) -> list[list[int]]:
    """The groups, those cut up that would need more than half of the memory that is free; this is logged.

    Each entry of a group is so many `networks`.
    """
    size = max(1, _room(_outline(model, spec), recipe, _free_bytes(device) // 2) // networks)
    largest = max(map(len, groups))
    if largest > size:
        log.warning(
            "memory: %d networks do not fit at once, they train in groups of %d", largest * networks, size * networks
        )
    return [group[start : start + size] for group in groups for start in range(0, len(group), size)]


def _outline(model: Model, spec: InputSpec) -> nn.Module:
    """The network without its numbers: another thread may be drawing initial weights, and there is one generator."""
    with torch.device("meta"):
        network: nn.Module = MODELS[model.family](spec, **model.options)
    return network


def _room(network: nn.Module, recipe: Recipe, limit_bytes: int) -> int:
    """How many networks like this one train together within so many bytes; at least 1."""
    plan = plan_of(network)
    layers = plan[1] if plan is not None else []
    weights = sum(layer.weight.numel() + layer.bias.numel() for layer in layers)
    between = sum(layer.in_features + layer.out_features for layer in layers)
    return max(1, limit_bytes // max(1, 4 * (COPIES * weights + recipe.batch_size * between)))


def _free_bytes(device: str) -> int:
    return free_on_gpu(device) if is_cuda(device) else int(psutil.virtual_memory().available)
