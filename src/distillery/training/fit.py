"""Training as one plain function. Teacher, baseline and student differ only in their objective.

Networks of one shape may train together: then each has its own seed, learning rate, weight decay, noise and objective,
and equals the same network trained alone, to rounding. K networks, B rows, C classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from distillery.config.experiment import Recipe
from distillery.devices import is_cuda
from distillery.ops.encoded_rows import Encoded
from distillery.training import ranks
from distillery.training.feed import Batches, Inputs
from distillery.training.objectives import Objective
from distillery.training.single import Alone
from distillery.training.stackable import stackable
from distillery.training.stacked import Stack
from distillery.training.state import seeded, without_denormals
from distillery.training.streams import Streams

OnEpoch = Callable[[int, dict[str, float]], None]

OnEpochs = Callable[[int, dict[int, dict[str, float]]], Collection[int]]
"""(epoch, record of each job that trains) -> the jobs that stop here."""

LOOK = 4
"""The losses of every so many steps, and of an epoch's last, are looked at."""

SHARED = ("epochs", "batch_size", "min_steps", "warmup_epochs", "clip_norm")


@dataclass(frozen=True, eq=False)
class TrainJob:
    """A network to be trained in place, with its own settings and rows.

    Attributes:
        network: Float inputs [B, ...] -> logits [B, C].
        recipe: Networks that train together differ in lr, weight_decay and augment.noise alone.
        seed: Of the order of rows, the augmentation and dropout.
        batches: What to train on, and in which order.
    """

    network: nn.Module
    recipe: Recipe
    seed: int
    batches: Batches


@dataclass(frozen=True)
class Validation:
    """Figures of every network after some epochs.

    Attributes:
        inputs: Encoded rows, in memory or mapped into it.
        measure: The figures of each job, from the logits [N, C] of all jobs on the rows; see `of_each`.
        epochs: After which to do so; None for all.
        rows: Which of the inputs, and in which order; None for all. A GPU keeps them where they fit.
    """

    inputs: Encoded
    measure: Callable[[Mapping[int, np.ndarray]], Mapping[int, dict[str, float]]]
    epochs: Container[int] | None = None
    rows: np.ndarray | None = None

    def after(self, epoch: int) -> bool:
        """Whether to do so after an epoch."""
        return self.epochs is None or epoch in self.epochs

    def shown(self, device: str) -> Inputs:
        """The rows of this process, to be predicted there again and again."""
        rows = np.arange(len(self.inputs)) if self.rows is None else self.rows
        return Inputs(self.inputs, rows[ranks.own(len(rows))], device, keep=is_cuda(device))


def of_each(
    measure: Callable[[np.ndarray], dict[str, float]],
) -> Callable[[Mapping[int, np.ndarray]], dict[int, dict[str, float]]]:
    """What measures each job by its own logits."""
    return lambda logits: {job: measure(own) for job, own in logits.items()}


@dataclass
class TrainResult:
    """What came of a job: one record per epoch (loss, seconds, validation figures).

    Attributes:
        error: Why it ended early: its loss or its weights became infinite or not a number.
        stopped: Whether `on_epochs` ended it.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    error: str | None = None
    stopped: bool = False


def fit(
    jobs: Sequence[TrainJob],
    objective: Objective,
    *,
    device: str = "cpu",
    validation: Validation | None = None,
    on_epochs: OnEpochs | None = None,
) -> list[TrainResult]:
    """Trains all networks together, in place.

    AdamW with decoupled weight decay on matrices and kernels only, linear warm-up, cosine to zero. Batches are drawn
    without replacement; the rows that do not fill the last batch of an epoch wait for the next one.
    A seed gives the same batches on all devices, but a GPU draws noise and dropout by itself, so that they are others.

    Args:
        jobs: One, or several whose networks can be stacked (`stackable`).
        objective: The losses of a batch.
        device: Where to train.
        validation: Figures to record.
        on_epochs: Called after every epoch; an exception from it stops the training.
    """
    return _Fit(jobs, objective, device).run(validation, on_epochs)


class _Fit:
    def __init__(self, jobs: Sequence[TrainJob], objective: Objective, device: str) -> None:
        self.jobs, self.objective, self.device = list(jobs), objective, device
        recipe = self.recipe = jobs[0].recipe
        if any(getattr(each.recipe, name) != getattr(recipe, name) for each in jobs for name in SHARED):
            raise ValueError(f"networks that train together need the same {', '.join(SHARED)}")
        networks = [each.network.to(device) for each in jobs]
        self.results = [TrainResult() for _ in jobs]
        self.left = list(range(len(jobs)))
        recipes = [each.recipe for each in jobs]
        seeds, batches = [each.seed for each in jobs], [each.batches for each in jobs]
        self.streams = Streams(seeds, batches, recipes, networks[0], device)
        self.factor = _warm_cosine(recipe, self.streams.steps)
        self.engine: Stack | Alone
        if stackable(networks):
            self.engine = Stack(networks, recipes, device)
        elif len(networks) == 1:
            self.engine = Alone(networks[0], self.streams.network, recipe, self.streams.batch)
        else:
            raise ValueError("these networks cannot be stacked: expected one network")

    def run(self, validation: Validation | None, on_epochs: OnEpochs | None) -> list[TrainResult]:
        """The results of all jobs."""
        shown: Inputs | None = None  # to validation, from its first time on
        with seeded(self.jobs[0].seed + ranks.rank()), without_denormals():  # each process drops its own units
            for epoch in range(1, self.recipe.epochs + 1):
                began = time.perf_counter()
                began_with, losses = self.left, self._epoch(epoch)
                self._fail(losses, epoch)
                if not self.left:
                    break
                seconds = (time.perf_counter() - began) / len(self.left)
                means = dict(zip(began_with, losses.mean(1).tolist(), strict=True))
                records = {k: {"train_loss": means[k], "seconds": seconds, **self.engine.record} for k in self.left}
                if validation is not None and validation.after(epoch):
                    shown = validation.shown(self.device) if shown is None else shown
                    logits = dict(zip(self.left, self.engine.predict(shown), strict=True))
                    for k, figures in validation.measure(logits).items():
                        records[k] |= figures
                for k, record in records.items():
                    self.results[k].history.append(record)
                for k in on_epochs(epoch, records) if on_epochs is not None else ():
                    self.results[k].stopped = True
                self._keep([k for k in self.left if not self.results[k].stopped])
                if not self.left:
                    break
        if self.left:
            self.engine.finish()
            for k in self.left:
                finite = [torch.isfinite(p).all() for p in self.jobs[k].network.parameters()]
                if not torch.stack(finite).all():
                    self.results[k].error = "weights became infinite in the last epoch; a lower lr may help"
        for each in self.jobs:
            each.network.eval()
        return self.results

    def _keep(self, left: list[int]) -> None:
        if left == self.left:
            return
        if left:
            self.engine.keep([self.left.index(k) for k in left])
        else:
            self.engine.finish()
        self.left = left

    def _fail(self, losses: torch.Tensor, epoch: int) -> None:
        """Leaves out the jobs whose loss is not finite any more."""
        finite = torch.isfinite(losses)
        if bool(finite.all()):
            return
        for k, values, good in zip(self.left, losses, finite, strict=True):
            if not good.all():
                first = values[~good][0].item()
                self.results[k].error = f"the loss became {first} in epoch {epoch}; a lower lr may help"
        self._keep([k for k in self.left if self.results[k].error is None])

    def _epoch(self, epoch: int) -> torch.Tensor:
        """Losses [K, steps] of the jobs that are left, at the steps that were looked at."""
        steps = self.streams.steps
        first = (epoch - 1) * steps
        objective = self.objective.of(torch.tensor(self.left, device=self.device))
        found = []
        for number, (shown, given) in enumerate(self.streams.epoch(epoch, self.left, objective, self.engine)):
            look = number % LOOK == 0 or number == steps - 1
            factor = self.factor(first + number)
            losses = self.engine.step(shown, objective, given, factor, self.streams.draw, look)
            if losses is not None:
                found.append(losses)
        return torch.stack(found, dim=1).cpu()


def _warm_cosine(recipe: Recipe, steps: int) -> Callable[[int], float]:
    total, warm = recipe.epochs * steps, recipe.warmup_epochs * steps

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1.0, total - warm))))

    return factor
