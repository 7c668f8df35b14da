"""Training as one plain function. Teacher, baseline and student differ only in their objective.

Networks of one shape may train together: then each has its own seed, learning rate, weight decay, noise and objective,
and equals the same network trained alone, to rounding. K learners, S streams of batches, B rows, C classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from distillery.config import Recipe
from distillery.training import ranks
from distillery.training.alone import Alone
from distillery.training.feed import Batches, Feed
from distillery.training.objectives import Given, Objective
from distillery.training.plan import stackable
from distillery.training.stacked import Stack
from distillery.training.state import seeded, without_denormals

OnEpoch = Callable[[int, dict[str, float]], None]

OnEpochs = Callable[[int, dict[int, dict[str, float]]], Collection[int]]
"""(epoch, record of each learner that trains) -> the learners that stop here."""

BLOCK_NUMBERS = 1 << 20
"""Batches are taken and augmented together up to this many numbers; the draws depend on it, so it is fixed."""

LOOK = 4
"""The losses of every so many steps, and of an epoch's last, are looked at."""

SHARED = ("epochs", "batch_size", "warmup_epochs", "clip_norm")


@dataclass(frozen=True, eq=False)
class Learner:
    """A network, trained in place, and what is its own.

    Attributes:
        network: Float inputs [B, ...] -> logits [B, C].
        recipe: Learners that train together differ in lr, weight_decay and augment.noise alone.
        seed: Of the order of rows, the augmentation and dropout.
        batches: What to train on, and in which order.
    """

    network: nn.Module
    recipe: Recipe
    seed: int
    batches: Batches


@dataclass(frozen=True)
class Validation:
    """Figures of every learner after some epochs.

    Attributes:
        inputs: Encoded rows [N, ...].
        measure: Of logits [N, C] on them.
        epochs: After which to do so; None for all.
    """

    inputs: np.ndarray
    measure: Callable[[np.ndarray], dict[str, float]]
    epochs: Container[int] | None = None


@dataclass
class Course:
    """What became of a learner: one record per epoch (loss, seconds, validation figures).

    Attributes:
        error: Why it ended early: its loss or its weights became infinite or not a number.
        stopped: Whether `on_epochs` ended it.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    error: str | None = None
    stopped: bool = False


def fit(
    learners: Sequence[Learner],
    objective: Objective,
    *,
    device: str = "cpu",
    validation: Validation | None = None,
    on_epochs: OnEpochs | None = None,
) -> list[Course]:
    """Trains all learners together, in place.

    AdamW with decoupled weight decay on matrices and kernels only, linear warm-up, cosine to zero. Batches are drawn
    without replacement; the rows that do not fill the last batch of an epoch wait for the next one.

    Args:
        learners: One, or several whose networks can be stacked (`stackable`).
        objective: The losses of a batch.
        device: Where to train.
        validation: Figures to record.
        on_epochs: Called after every epoch; an exception from it stops the training.
    """
    return _Fit(learners, objective, device).run(validation, on_epochs)


class _Fit:
    def __init__(self, learners: Sequence[Learner], objective: Objective, device: str) -> None:
        self.learners, self.objective, self.device = list(learners), objective, device
        recipe = self.recipe = learners[0].recipe
        if any(getattr(each.recipe, name) != getattr(recipe, name) for each in learners for name in SHARED):
            raise ValueError(f"learners that train together need the same {', '.join(SHARED)}")
        networks = [each.network.to(device) for each in learners]
        self.courses = [Course() for _ in learners]
        self.left = list(range(len(learners)))
        self.batches = learners[0].batches
        self.batch = min(recipe.batch_size, len(self.batches))
        self.steps = max(1, len(self.batches) // self.batch)
        self.factor = _warm_cosine(recipe, self.steps)
        self._streams()
        self.feeds = [Feed(self.batches, recipe.augment, g, networks[0]) for g in self.changes]
        self._shown = torch.empty(0)
        self._spread_by: torch.Tensor | None = None
        self.engine: Stack | Alone
        if stackable(networks):
            self.engine = Stack(networks, [each.recipe for each in learners], device)
        elif len(networks) == 1:
            self.engine = Alone(networks[0], self.feeds[0].network, recipe, self.batch)
        else:
            raise ValueError("these networks cannot be stacked: expected one learner")

    def _streams(self) -> None:
        """Learners with the same seed and order of batches share one stream of them."""
        keys = [(each.seed, id(each.batches)) for each in self.learners]
        distinct = list(dict.fromkeys(keys))
        self.orders = [self.learners[keys.index(key)].batches for key in distinct]
        # One generator for each purpose: who draws no noise sees the same batches as who does.
        self.shuffles, self.changes, self.dropouts = (
            [_generator(seed, purpose) for seed, _ in distinct] for purpose in range(3)
        )
        self.stream_of = [distinct.index(key) for key in keys]
        self.noises = torch.tensor([each.recipe.augment.noise for each in self.learners], device=self.device)

    def run(self, validation: Validation | None, on_epochs: OnEpochs | None) -> list[Course]:
        """The courses of all learners."""
        with seeded(self.learners[0].seed + ranks.rank()), without_denormals():  # each process drops its own units
            for epoch in range(1, self.recipe.epochs + 1):
                began = time.perf_counter()
                began_with, losses = self.left, self._epoch(epoch)
                self._fail(losses, epoch)
                if not self.left:
                    break
                seconds = (time.perf_counter() - began) / len(self.left)
                means = dict(zip(began_with, losses.mean(1).tolist(), strict=True))
                records = {k: {"train_loss": means[k], "seconds": seconds} for k in self.left}
                if validation is not None and (validation.epochs is None or epoch in validation.epochs):
                    for k, logits in zip(self.left, self.engine.predict(validation.inputs), strict=True):
                        records[k] |= validation.measure(logits)
                for k, record in records.items():
                    self.courses[k].history.append(record)
                for k in on_epochs(epoch, records) if on_epochs is not None else ():
                    self.courses[k].stopped = True
                self._keep([k for k in self.left if not self.courses[k].stopped])
                if not self.left:
                    break
        if self.left:
            self.engine.finish()
            for k in self.left:
                if not all(torch.isfinite(p).all() for p in self.learners[k].network.parameters()):
                    self.courses[k].error = "weights became infinite in the last epoch; a lower lr may help"
        for each in self.learners:
            each.network.eval()
        return self.courses

    def _keep(self, left: list[int]) -> None:
        if left == self.left:
            return
        if left:
            self.engine.keep([self.left.index(k) for k in left])
        else:
            self.engine.finish()
        self.left = left

    def _fail(self, losses: torch.Tensor, epoch: int) -> None:
        """Leaves out the learners whose loss is not finite any more."""
        finite = torch.isfinite(losses)
        if bool(finite.all()):
            return
        for k, values, good in zip(self.left, losses, finite, strict=True):
            if not good.all():
                first = values[~good][0].item()
                self.courses[k].error = f"the loss became {first} in epoch {epoch}; a lower lr may help"
        self._keep([k for k in self.left if self.courses[k].error is None])

    def _epoch(self, epoch: int) -> torch.Tensor:
        """Losses [K, steps] of the learners that are left, at the steps that were looked at."""
        count = self.steps * self.batch
        orders = [b.order(epoch, g)[:count] for b, g in zip(self.orders, self.shuffles, strict=True)]
        items = torch.stack(orders).to(self.device)
        which, streams = torch.tensor(self.left, device=self.device), [self.stream_of[k] for k in self.left]
        each_its_own = streams == list(range(len(self.orders)))
        self._spread_by = None if each_its_own else torch.tensor(streams, device=self.device)
        objective, draw, first = self.objective.of(which), self._draws(), (epoch - 1) * self.steps
        found = []
        for start, stop in self._blocks():
            for number, (shown, given) in enumerate(self._batches(items, start, stop, objective, which), start):
                look = number % LOOK == 0 or number == self.steps - 1
                losses = self.engine.step(shown, objective, given, self.factor(first + number), draw, look)
                if losses is not None:
                    found.append(losses)
        return torch.stack(found, dim=1).cpu()

    def _batches(
        self, items: torch.Tensor, start: int, stop: int, objective: Objective, which: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, Given]]:
        """(laid out inputs, what the objective needs) of steps `start` to `stop`, prepared together."""
        items = items[:, start * self.batch : stop * self.batch]
        count, places = items.shape[1], ranks.own_places(items.shape[1], self.batch)
        parts = [feed(mine, places) for feed, mine in zip(self.feeds, items, strict=True)]
        rows = parts[0][None] if len(parts) == 1 else torch.stack(parts)
        eps = self._noise((count, *rows.shape[2:]))
        if places is not None:
            items, eps = items[:, places], None if eps is None else eps[:, places]
        batch = items.shape[1] * self.batch // count
        noises = self._noises(which).view(-1, *[1] * (rows.ndim - 1))
        rows, eps = self.engine.laid_out(rows), None if eps is None else self.engine.laid_out(eps, 0.0)
        given = objective.gather(items)
        for place in range(0, items.shape[1], batch):
            part = (self.engine.rows_dim, place, batch)
            shown = self._spread(rows.narrow(*part))
            if eps is not None:
                shown = self._noisy(shown, self._spread(eps.narrow(*part)), noises)
            yield shown, tuple(self._spread(g.narrow(1, place, batch)) for g in given)

    def _noisy(self, rows: torch.Tensor, eps: torch.Tensor, noises: torch.Tensor) -> torch.Tensor:
        """Rows and noise in memory that the next batch overwrites: to ask for new pages costs more than the sum."""
        shape = (max(rows.shape[0], noises.shape[0]), *rows.shape[1:])
        if self._shown.shape != shape:
            self._shown = torch.empty(shape, device=rows.device)
        return torch.addcmul(rows, eps, noises, out=self._shown)

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """Steps that are prepared together."""
        numbers = self.batch * self.batches.take(torch.zeros(1, dtype=torch.int64)).numel()
        wide = max(1, BLOCK_NUMBERS // numbers)
        return ((start, min(start + wide, self.steps)) for start in range(0, self.steps, wide))

    def _noise(self, shape: tuple[int, ...]) -> torch.Tensor | None:
        """Standard normal numbers [S, *shape], from each stream's own generator."""
        if not self.noises.any():
            return None
        return torch.stack([torch.randn(shape, generator=g) for g in self.changes]).to(self.device)

    def _spread(self, values: torch.Tensor) -> torch.Tensor:
        """Values [S, ...] of the streams for each learner [K, ...], or [1, ...] where all have the same."""
        return values if values.shape[0] == 1 or self._spread_by is None else values[self._spread_by]

    def _noises(self, which: torch.Tensor) -> torch.Tensor:
        """The learners' noise [K], or [1] where all that share a stream have the same."""
        noises = self.noises[which]
        return noises[:1] if len(self.orders) == 1 and bool((noises == noises[0]).all()) else noises

    def _draws(self) -> Callable[[tuple[int, ...]], torch.Tensor]:
        def draw(shape: tuple[int, ...]) -> torch.Tensor:
            drawn = torch.stack([torch.rand(shape, generator=g) for g in self.dropouts])
            return self._spread(drawn.to(self.device))

        return draw


def _generator(seed: int, purpose: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, purpose)).generate_state(1)[0]))


def _warm_cosine(recipe: Recipe, steps: int) -> Callable[[int], float]:
    total, warm = recipe.epochs * steps, recipe.warmup_epochs * steps

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1.0, total - warm))))

    return factor
