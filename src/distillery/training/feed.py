"""From the bytes of the pack to what a network is shown: taken, augmented, made float and normalised by the batch."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import nn

from distillery.config import Augment
from distillery.memory import resident_bytes
from distillery.packed import Encoded
from distillery.pixels import Normalised
from distillery.training import augment

CHUNK_BYTES = 1 << 19
"""Of pixels that are augmented at once on the CPU, so that they stay in the processor's cache from step to step."""

LARGE_BYTES = 1 << 16
"""Images above this size go one by one: what the loop costs is less than what it saves in passes through memory."""


class Batches(Protocol):
    """What a network is trained on. An item is whatever the objective can look up by its number."""

    def __len__(self) -> int:
        """Items in an epoch."""

    def order(self, epoch: int, generator: torch.Generator) -> torch.Tensor:
        """Items of an epoch, in the order of training."""

    def take(self, items: torch.Tensor) -> torch.Tensor:
        """Their inputs [B, ...] as they are kept: uint8 pixels or float features."""

    def lying(self, items: torch.Tensor) -> list[np.ndarray] | None:
        """The inputs of each where they lie, in memory or in the pack, without a copy; None where they are made."""


class Inputs:
    """The rows of one split; item = place in the split. Kept on the device where they fit, else read by the batch."""

    def __init__(self, inputs: Encoded, rows: np.ndarray, device: str) -> None:
        self._device, self._source, self._rows = device, inputs, rows
        size = len(rows) * inputs[:1].nbytes
        self._resident = torch.from_numpy(inputs[rows]).to(device) if size <= resident_bytes() else None

    def __len__(self) -> int:
        return len(self._rows)

    def order(self, epoch: int, generator: torch.Generator) -> torch.Tensor:
        """All places, shuffled."""
        return torch.randperm(len(self), generator=generator)

    def take(self, items: torch.Tensor) -> torch.Tensor:
        """Batch [B, ...] of the given places, uint8 pixels or float features."""
        if self._resident is not None:
            return self._resident.index_select(0, items.to(self._device))
        return torch.from_numpy(self._source[self._rows[items.cpu().numpy()]]).to(self._device)

    def lying(self, items: torch.Tensor) -> list[np.ndarray]:
        """See `Batches`."""
        if self._resident is not None:
            held = self._resident.numpy()
            return [held[item] for item in items.tolist()]
        return [self._source[row] for row in self._rows[items.numpy()].tolist()]


class Feed:
    """Training inputs by the batch.

    A network that begins with `Normalised` gets its pixels normalised already: `network` is what comes after that.
    On the CPU all batches of pixels lie in the same memory, which the next one overwrites: asking the system for new
    pages costs more than all the rest at 224 pixels.

    Args:
        inputs: Where batches come from.
        config: How they are augmented.
        generator: Of all that is drawn.
        network: What is trained.
    """

    def __init__(self, inputs: Batches, config: Augment, generator: torch.Generator, network: nn.Module) -> None:
        self._inputs, self._config, self._generator = inputs, config, generator
        self._scale = network if isinstance(network, Normalised) else None
        self.network = network if self._scale is None else self._scale.backbone
        self._room = torch.empty(0)
        self._one = inputs.take(torch.zeros(1, dtype=torch.int64))

    def __call__(self, items: torch.Tensor, places: torch.Tensor | None = None) -> torch.Tensor:
        """Float batch [B, ...] of these items, to be used before the next one is asked for; of some places alone."""
        changes = augment.drawn(len(items), self._one.shape[-1], self._config, self._generator)
        if places is not None:
            items, changes = items[places], changes.only(places)
        if self._one.dtype != torch.uint8 or self._one.device.type != "cpu":
            return self._normalise(changes.lit(changes.of(self._inputs.take(items)).float()))
        floats = self._floats(len(items))
        if self._one.numel() > LARGE_BYTES:
            lying = self._inputs.lying(items)
            changes.into(list(self._inputs.take(items).numpy()) if lying is None else lying, floats, self._normalise)
            return floats
        return self._in_place(self._inputs.take(items), floats, changes)

    def _floats(self, count: int) -> torch.Tensor:
        numbers = count * self._one.numel()
        if self._room.numel() < numbers:
            self._room = torch.from_numpy(np.empty(numbers, np.float32))  # numpy asks for huge pages
        return self._room[:numbers].view(count, *self._one.shape[1:])

    def _in_place(self, pixels: torch.Tensor, floats: torch.Tensor, changes: augment.Changes) -> torch.Tensor:
        size = max(1, CHUNK_BYTES // pixels[0].numel())
        for start in range(0, len(pixels), size):
            part = slice(start, start + size)
            self._normalise(changes.lit(floats[part].copy_(changes.of(pixels[part], part)), part))
        return floats

    def _normalise(self, floats: torch.Tensor) -> torch.Tensor:
        return floats if self._scale is None else self._scale.normalise(floats)
