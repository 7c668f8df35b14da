"""What is measured: each function does one piece of work as the project does it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from distillery.config.experiment import Augment, Experiment, Logits, Recipe, Teacher
from distillery.ops.images import Normalised
from distillery.stages.data.dataset import Dataset
from distillery.stages.logits import logit_cache
from distillery.stages.logits.logit_store import Reader, Writer
from distillery.stages.search import student_search
from distillery.stages.search.record import SearchResult, Trial
from distillery.stages.teachers.label_training import fit_classifiers
from distillery.store import Handle, Store
from distillery.training.feed import Feed, Inputs
from distillery.training.networks import build_network
from distillery.training.stack_size import stack_size


def ours_teachers(member: Teacher, recipe: Recipe, dataset: Dataset, seeds: list[int]) -> list[nn.Module]:
    """One teacher for each seed, trained on the labels of train."""
    networks = [build_network(member, dataset.spec, seed) for seed in seeds]
    size = stack_size(member, recipe, dataset.spec)
    for start in range(0, len(seeds), size):
        part = slice(start, start + size)
        fit_classifiers(networks[part], dataset, [recipe] * len(seeds[part]), seeds[part])
    return networks


def ours_trials(
    experiment: Experiment, data: Handle, ensemble: Handle, taught: list[Handle], profiles: list[Handle], folder: Path
) -> list[Trial]:
    """A whole study in a store of its own, with Optuna's share and the store's: its trials."""
    found = student_search.run_search(experiment, data, ensemble, taught, profiles, Store(folder))
    return SearchResult.read(found).trials


def ours_batches(
    dataset: Dataset, batch: int, shift: float, generator: torch.Generator, epochs: int
) -> Iterator[torch.Tensor]:
    """The training batches of some epochs, float [B, channels, S, S]: shifted, mirrored and normalised."""
    inputs = Inputs(dataset.inputs, dataset.splits["train"], "cpu")
    normalised = Normalised(nn.Identity(), dataset.spec.mean, dataset.spec.std)
    feed = Feed(inputs, Augment(shift=shift, flip=True), generator, normalised)
    for epoch in range(1, epochs + 1):
        for items in inputs.order(epoch, generator).split(batch):
            yield feed(items)


def write_logits(folder: Path, values: np.ndarray, config: Logits) -> Handle:
    """A stage directory with an array of logits [V, N, C], chunk by chunk as the stage writes it."""
    array = Writer(folder / logit_cache.ARRAY, values.shape, config.dtype, config.chunk_rows, config.top)
    rows = Reader(folder / logit_cache.ARRAY).chunk_rows
    for number, view in enumerate(values):
        for start in range(0, len(view), rows):
            array.write(number, start, view[start : start + rows])
    return Handle("logits", "speed", str(folder), "")
