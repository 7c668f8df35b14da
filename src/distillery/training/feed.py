"""From the bytes of the pack to what a network is shown: taken, augmented, made float and normalised by the batch."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import nn

from distillery.config import Augment
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

    def __call__(self, items: torch.Tensor) -> torch.Tensor:
        """Float batch [B, ...] of these items, to be used before the next one is asked for."""
        batch, config = self._inputs.take(items), self._config
        changes = augment.drawn(batch, config, self._generator)
        if batch.dtype == torch.uint8 and batch.device.type == "cpu":
            return self._in_place(batch, changes)
        return self._normalise(changes.lit(changes.of(batch).float()))

    def _in_place(self, pixels: torch.Tensor, changes: augment.Changes) -> torch.Tensor:
        if self._room.numel() < pixels.numel():
            self._room = torch.from_numpy(np.empty(pixels.numel(), np.float32))  # numpy asks for huge pages
        floats = self._room[: pixels.numel()].view(pixels.shape)
        if pixels[0].numel() > LARGE_BYTES:
            changes.into(pixels, floats, self._normalise)
            return floats
        size = max(1, CHUNK_BYTES // pixels[0].numel())
        for start in range(0, len(pixels), size):
            part = slice(start, start + size)
            self._normalise(changes.lit(floats[part].copy_(changes.of(pixels[part], part)), part))
        return floats

    def _normalise(self, floats: torch.Tensor) -> torch.Tensor:
        return floats if self._scale is None else self._scale.normalise(floats)
