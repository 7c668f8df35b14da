"""What is measured: each function does one piece of work as the project does it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from distillery import logits, search
from distillery.config import Experiment, Recipe, Teacher
from distillery.dataset import Dataset
from distillery.models import InputSpec
from distillery.store import Handle, Store
from distillery.teachers import build_network, fit_classifiers
from distillery.training import augment
from distillery.training.fit import Inputs


def ours_teachers(member: Teacher, recipe: Recipe, dataset: Dataset, seeds: list[int]) -> list[nn.Module]:
    """One teacher for each seed, trained on the labels of train."""
    networks = [build_network(member, dataset.spec, seed) for seed in seeds]
    fit_classifiers(networks, dataset, [recipe] * len(seeds), seeds)
    return networks


def ours_trials(
    experiment: Experiment, data: Handle, ensemble: Handle, taught: list[Handle], profiles: list[Handle], folder: Path
) -> list[dict[str, Any]]:
    """A whole study in a store of its own, with Optuna's share and the store's: the records of its trials."""
    found = search.run_search(experiment, data, ensemble, taught, profiles, Store(folder))
    trials: list[dict[str, Any]] = found.json("search.json")["trials"]
    return trials


def ours_batches(dataset: Dataset, batch: int, shift: float, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """One epoch of training batches float [B, channels, S, S]: shifted, mirrored and normalised."""
    inputs = Inputs(dataset.inputs, dataset.splits["train"], "cpu")
    mean, std = _moments(dataset.spec)
    for items in inputs.order(1, generator).split(batch):
        pixels = augment.shift(inputs.take(items), shift, generator)
        yield (augment.flip(pixels, generator) - mean) / std


def _moments(spec: InputSpec) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)


def write_logits(folder: Path, values: np.ndarray, config: logits.Logits) -> Handle:
    """A stage directory with an array of logits [V, N, C], chunk by chunk as the stage writes it."""
    array = logits._open(folder / logits.ARRAY, values.shape, config)
    for number, view in enumerate(values):
        for start in range(0, len(view), config.chunk_rows):
            array[number, start : start + config.chunk_rows] = view[start : start + config.chunk_rows]
    return Handle("logits", "speed", str(folder), "")
