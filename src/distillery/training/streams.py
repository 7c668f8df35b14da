"""Streams of batches: what learners that train together are shown. K learners, S streams, B rows.

Learners with the same seed and order of batches share one stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import nn

from distillery.config.experiment import Recipe
from distillery.devices import generator, sent
from distillery.training import ranks
from distillery.training.feed import Batches, Feed
from distillery.training.objectives import Given, Objective

BLOCK_NUMBERS = 1 << 20
"""Batches are taken and augmented together up to this many numbers; the draws depend on it, so it is fixed."""


class Layout(Protocol):
    """How an engine wants its inputs to lie in memory."""

    @property
    def rows_dim(self) -> int:
        """The dimension of `laid_out` inputs along which a batch is cut out."""

    def laid_out(self, rows: torch.Tensor, last: float = 1.0) -> torch.Tensor:
        """Inputs [S, n, ...] as a step takes them."""


class Streams:
    """The streams of some learners.

    The order of rows and the augmentation are drawn on the CPU, so that every device is shown the same rows. Noise and
    dropout are drawn where they are used: those of a GPU are others than those of a CPU.

    Args:
        seeds: Of each learner.
        batches: Of each learner.
        recipes: Of each learner; they differ in noise alone, as far as batches go.
        network: Of the first one.
        device: Where to train.

    Attributes:
        network: The part that is shown batches.
        batch: Rows of a step, of all processes.
        steps: Of an epoch.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        batches: Sequence[Batches],
        recipes: Sequence[Recipe],
        network: nn.Module,
        device: str,
    ) -> None:
        self._device = device
        self.batch = recipes[0].batch_of(len(batches[0]))
        self.steps = max(1, len(batches[0]) // self.batch)

        keys = [(seed, id(own)) for seed, own in zip(seeds, batches, strict=True)]
        distinct = list(dict.fromkeys(keys))
        self._stream_of = [distinct.index(key) for key in keys]
        self._batches = [batches[keys.index(key)] for key in distinct]

        # One generator for each purpose: who draws no noise sees the same batches as who does.
        own_seeds = [seed for seed, _ in distinct]
        self._shuffles = [generator(seed, 0) for seed in own_seeds]
        changes = [generator(seed, 1) for seed in own_seeds]
        self._dropouts = [generator(seed, 2, device) for seed in own_seeds]
        on_cpu = torch.device(device).type == "cpu"
        self._noise_from = changes if on_cpu else [generator(seed, 3, device) for seed in own_seeds]

        # Also as plain numbers: to ask a GPU for one of its own waits for all that it has to do.
        self._noise_of = [recipe.augment.noise for recipe in recipes]
        self._noises = torch.tensor(self._noise_of, device=device)

        self._feeds = [Feed(batches[0], recipes[0].augment, drawn, network, device) for drawn in changes]
        self.network = self._feeds[0].network
        self._shown = torch.empty(0)
        self._spread_by: torch.Tensor | None = None
        self._in_blocks = False

    def epoch(
        self, number: int, left: list[int], objective: Objective, layout: Layout
    ) -> Iterator[tuple[torch.Tensor, Given]]:
        """(laid out inputs, what the objective needs) of each step of an epoch, prepared by the block.

        Inputs are those of each learner, or of each stream where streams have as many learners, one after another.

        Args:
            number: Of the epoch.
            left: The learners that still train.
            objective: Theirs.
            layout: Of the inputs.
        """
        count = self.steps * self.batch
        drawn = zip(self._batches, self._shuffles, strict=True)
        order = torch.stack([batches.order(number, shuffle)[:count] for batches, shuffle in drawn])
        items = sent(order, self._device)
        wanted = items if self._feeds[0].kept else order  # where the inputs are

        streams = [self._stream_of[k] for k in left]
        each_its_own = streams == list(range(len(self._batches)))
        self._spread_by = None if each_its_own else torch.tensor(streams, device=self._device)
        each = len(left) // len(self._batches)
        self._in_blocks = streams == [stream for stream in range(len(self._batches)) for _ in range(each)]
        noises = self._noises_of(left)

        blocks = self._blocks(count)
        for block, after in zip(blocks, [*blocks[1:], None], strict=True):
            parts = self._fed(wanted, block, after)
            rows = parts[0][None] if len(parts) == 1 else torch.stack(parts)
            yield from self._steps(rows, items[:, block], noises, objective, layout)

    def draw(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Uniform numbers [1 or K, *shape] of the streams of an epoch's learners, for dropout."""
        drawn = [torch.rand(shape, generator=g, device=self._device) for g in self._dropouts]
        return self._spread(torch.stack(drawn))

    def _blocks(self, count: int) -> list[slice]:
        """Items of an epoch that are prepared together: those of some steps."""
        wide = self.batch * max(1, BLOCK_NUMBERS // (self.batch * self._feeds[0].row_numbers))
        return [slice(start, min(start + wide, count)) for start in range(0, count, wide)]

    def _fed(self, wanted: torch.Tensor, block: slice, after: slice | None) -> list[torch.Tensor]:
        """Float inputs [n, ...] of a block of each stream, this process's part of them."""
        places = self._places(block.stop - block.start)
        later = [None] * len(self._feeds) if after is None else self._own(wanted[:, after])
        return [
            feed(mine, places, following)
            for feed, mine, following in zip(self._feeds, wanted[:, block], later, strict=True)
        ]

    def _steps(
        self, rows: torch.Tensor, items: torch.Tensor, noises: torch.Tensor, objective: Objective, layout: Layout
    ) -> Iterator[tuple[torch.Tensor, Given]]:
        """The steps of a block, of which `rows` [S, n, ...] are this process's and `items` [S, N] all processes'."""
        eps = self._noise((items.shape[1], *rows.shape[2:]))
        batch = rows.shape[1] * self.batch // items.shape[1]
        given = objective.gather(self._own(items))
        noises = noises.view(-1, *[1] * (rows.ndim - 1))
        count = rows.shape[1]
        rows = layout.laid_out(rows)
        eps = None if eps is None else layout.laid_out(self._own(eps), 0.0)
        for place in range(0, count, batch):
            part = (layout.rows_dim, place, batch)
            shown = rows.narrow(*part)
            if eps is not None or not self._in_blocks:
                shown = self._spread(shown)
            if eps is not None:
                shown = self._noisy(shown, self._spread(eps.narrow(*part)), noises)
            yield shown, tuple(self._spread(g.narrow(1, place, batch)) for g in given)

    def _places(self, count: int) -> torch.Tensor | None:
        return ranks.own_places(count, self.batch)

    def _own(self, values: torch.Tensor) -> torch.Tensor:
        """This process's part [S, n, ...] of values [S, N, ...] for whole batches."""
        places = self._places(values.shape[1])
        return values if places is None else values[:, places.to(values.device)]

    def _noise(self, shape: tuple[int, ...]) -> torch.Tensor | None:
        """Standard normal numbers [S, *shape], from each stream's own generator."""
        if not any(self._noise_of):
            return None
        return torch.stack([torch.randn(shape, generator=g, device=self._device) for g in self._noise_from])

    def _noises_of(self, left: list[int]) -> torch.Tensor:
        """The learners' noise [K], or [1] where all that share a stream have the same."""
        alike = len({self._noise_of[k] for k in left}) == 1
        noises = self._noises[left]
        return noises[:1] if len(self._batches) == 1 and alike else noises

    def _noisy(self, rows: torch.Tensor, eps: torch.Tensor, noises: torch.Tensor) -> torch.Tensor:
        """Rows and noise in memory that the next batch overwrites: to ask for new pages costs more than the sum."""
        shape = (max(rows.shape[0], noises.shape[0]), *rows.shape[1:])
        if self._shown.shape != shape:
            self._shown = torch.empty(shape, device=rows.device)
        return torch.addcmul(rows, eps, noises, out=self._shown)

    def _spread(self, values: torch.Tensor) -> torch.Tensor:
        """Values [S, ...] of the streams for each learner [K, ...], or [1, ...] where all have the same."""
        return values if values.shape[0] == 1 or self._spread_by is None else values[self._spread_by]
