"""From the bytes of the pack to what a network is shown: taken, augmented, made float and normalised by the batch."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import nn

from distillery.config.experiment import Augment
from distillery.devices import is_cuda, sent
from distillery.memory import blocks, resident_bytes
from distillery.ops.encoded_rows import Encoded
from distillery.ops.images import Normalised
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
        """Their inputs [B, ...] as they are kept, uint8 pixels or float features: on the device, or else on the CPU.

        Quickest where the items are there as well.
        """

    def lying(self, items: torch.Tensor) -> list[np.ndarray] | None:
        """The inputs of each where they lie, in memory or in the pack, without a copy; None where they are made."""


class Inputs:
    """The rows of one split; item = place in the split. Kept on the device where they fit, else read by the batch.

    Args:
        inputs: Encoded rows [N, ...], in memory or mapped into it.
        rows: Which of them, and in which order.
        device: Where they are used.
        keep: Whether to keep what fits; not worth while for rows that are read once.
    """

    def __init__(self, inputs: Encoded, rows: np.ndarray, device: str, *, keep: bool = True) -> None:
        self._source, self._rows = inputs, rows
        size = len(rows) * inputs[:1].nbytes
        self._resident = _copied(inputs, rows, device) if keep and size <= resident_bytes(device) else None

    def __len__(self) -> int:
        return len(self._rows)

    def order(self, epoch: int, generator: torch.Generator) -> torch.Tensor:
        """All places, shuffled."""
        return torch.randperm(len(self), generator=generator)

    def take(self, items: torch.Tensor) -> torch.Tensor:
        """Batch [B, ...] of the given places, uint8 pixels or float features."""
        if self._resident is not None:
            return self._resident.index_select(0, items.to(self._resident.device))
        return torch.from_numpy(self._source[self._rows[items.cpu().numpy()]])

    def part(self, start: int, stop: int) -> torch.Tensor:
        """Places `start` to `stop`, as `take` gives them."""
        if self._resident is not None:
            return self._resident[start:stop]
        return torch.from_numpy(self._source[self._rows[start:stop]])

    def lying(self, items: torch.Tensor) -> list[np.ndarray]:
        """See `Batches`."""
        if self._resident is not None:
            held = self._resident.numpy()
            return [held[item] for item in items.tolist()]
        return [self._source[row] for row in self._rows[items.numpy()].tolist()]


class Part:
    """Some of the rows of a split; item = place in the split.

    Args:
        inputs: The rows of the split.
        places: Of these rows in the split.
        length: Rows of an epoch; the others wait for a later one.
    """

    def __init__(self, inputs: Inputs, places: np.ndarray, length: int) -> None:
        self._inputs = inputs
        self._places = torch.from_numpy(places)
        self._length = length

    def __len__(self) -> int:
        return self._length

    def order(self, epoch: int, generator: torch.Generator) -> torch.Tensor:
        """See `Batches`."""
        shuffled = torch.randperm(len(self._places), generator=generator)
        return self._places[shuffled[: self._length]]

    def take(self, items: torch.Tensor) -> torch.Tensor:
        """See `Batches`."""
        return self._inputs.take(items)

    def lying(self, items: torch.Tensor) -> list[np.ndarray] | None:
        """See `Batches`."""
        return self._inputs.lying(items)


def _copied(inputs: Encoded, rows: np.ndarray, device: str) -> torch.Tensor:
    """The rows on a device; for a GPU they pass through this process's memory block by block."""
    if not is_cuda(device):
        return torch.from_numpy(inputs[rows]).to(device)

    one = torch.from_numpy(inputs[rows[:1]])
    copied = torch.empty((len(rows), *one.shape[1:]), dtype=one.dtype, device=device)
    for part in blocks(len(rows), inputs[:1].nbytes):
        copied[part] = torch.from_numpy(inputs[rows[part]]).to(device)
    return copied


class Feed:
    """Training inputs by the batch.

    A network that begins with `Normalised` gets its pixels normalised already: `network` is what comes after that.
    On the CPU all batches of pixels lie in the same memory, which the next one overwrites: asking the system for new
    pages costs more than all the rest at 224 pixels.
    Inputs that a GPU does not keep are read one batch ahead, by a thread, into memory that is pinned.

    Args:
        inputs: Where batches come from.
        config: How they are augmented.
        generator: Of all that is drawn, on the CPU, so that all devices show the same pixels.
        network: What is trained.
        device: Where.

    Attributes:
        kept: Whether the inputs are on the device; then it wants items that are there, too.
    """

    def __init__(
        self, inputs: Batches, config: Augment, generator: torch.Generator, network: nn.Module, device: str = "cpu"
    ) -> None:
        self._inputs, self._config, self._generator, self._device = inputs, config, generator, device
        self._scale = network if isinstance(network, Normalised) else None
        self.network = network if self._scale is None else self._scale.backbone
        self._room = torch.empty(0)

        self._one = inputs.take(torch.zeros(1, dtype=torch.int64))
        self.kept = self._one.device.type == torch.device(device).type
        self._reader: ThreadPoolExecutor | None = None if self.kept else ThreadPoolExecutor(1)
        self._begun: Future[torch.Tensor] | None = None

    @property
    def row_numbers(self) -> int:
        """Numbers of one row."""
        return self._one.numel()

    def __call__(
        self, items: torch.Tensor, places: torch.Tensor | None = None, after: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Float batch [B, ...] of these items, to be used before the next one is asked for.

        Args:
            items: Of all processes that train the network.
            places: Those of this process; None for all.
            after: What the next call asks for, of this process; None after the last one.
        """
        changes = augment.drawn(len(items), self._one.shape[-1], self._config, self._generator)
        if places is not None:
            items, changes = items[places.to(items.device)], changes.only(places)
        if self._one.dtype != torch.uint8 or torch.device(self._device).type != "cpu":
            shown = self._taken(items, after)
            changes = changes.on(shown.device)
            return self._normalise(changes.lit(changes.of(shown).float()))
        floats = self._floats(len(items))
        if self._one.numel() > LARGE_BYTES:
            lying = self._inputs.lying(items)
            changes.into(list(self._inputs.take(items).numpy()) if lying is None else lying, floats, self._normalise)
            return floats
        return self._in_place(self._inputs.take(items), floats, changes)

    def _taken(self, items: torch.Tensor, after: torch.Tensor | None) -> torch.Tensor:
        """The inputs on the device; those that come after begin to be read."""
        if self._reader is None:
            return self._inputs.take(items)
        read = self._read(items) if self._begun is None else self._begun.result()
        self._begun = None if after is None else self._reader.submit(self._read, after)
        return sent(read, self._device)

    def _read(self, items: torch.Tensor) -> torch.Tensor:
        taken = self._inputs.take(items)
        return taken.pin_memory() if is_cuda(self._device) else taken

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
