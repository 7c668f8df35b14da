"""Label-preserving changes of a whole batch at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from distillery.config.experiment import Augment
from distillery.devices import sent
from distillery.ops.images import mirrored_tensor, moved_tensor, place

ALL = slice(None)


@dataclass(frozen=True)
class Changes:
    """What is done to each image of a batch.

    Attributes:
        reach: Pixels that an image may move in each direction; edges are repeated.
        offsets: Rows and columns to move by, plus `reach`, int64 [2, B]; None: they stay where they are.
        mirrored: The images that are mirrored left to right, bool [B]; None: no one.
        brightness: What the brightness of each is multiplied by, float [B]; None: nothing.
    """

    reach: int
    offsets: torch.Tensor | None
    mirrored: torch.Tensor | None
    brightness: torch.Tensor | None = None

    def of(self, images: torch.Tensor, part: slice = ALL) -> torch.Tensor:
        """The images [.., channels, S, S] of a part of the batch, changed."""
        if self.offsets is not None:
            images = moved_tensor(images, self.offsets[0, part], self.offsets[1, part], self.reach)
        elif self.mirrored is not None:
            images = images.clone()
        return images if self.mirrored is None else mirrored_tensor(images, self.mirrored[part])

    def only(self, places: torch.Tensor) -> Changes:
        """What is done to some of the images."""
        kept = (None if v is None else v[..., places] for v in (self.offsets, self.mirrored, self.brightness))
        return Changes(self.reach, *kept)

    def on(self, device: torch.device) -> Changes:
        """The same, to be done to images on a device."""
        kept = (None if v is None else sent(v, device) for v in (self.offsets, self.mirrored, self.brightness))
        return Changes(self.reach, *kept)

    def lit(self, pixels: torch.Tensor, part: slice = ALL) -> torch.Tensor:
        """The float pixels of a part of the batch in its light, in place."""
        if self.brightness is None:
            return pixels
        return pixels.mul_(self.brightness[part, None, None, None].to(pixels.device)).clamp_(max=255)

    def into(self, images: Sequence[np.ndarray], out: torch.Tensor, then: Callable[[torch.Tensor], object]) -> None:
        """Writes the changed images into `out`, one after the other, and calls `then` with each [1, ...]."""
        still = torch.zeros(len(images), dtype=torch.int64)
        down, right = (still, still) if self.offsets is None else self.offsets - self.reach
        flags = still if self.mirrored is None else self.mirrored
        target = out.numpy()
        for index, (y, x, mirrored) in enumerate(zip(down.tolist(), right.tolist(), flags.tolist(), strict=True)):
            place(images[index], y, x, mirrored, target[index])
            part = slice(index, index + 1)
            then(self.lit(out[part], part))


def drawn(count: int, side: int, config: Augment, generator: torch.Generator) -> Changes:
    """Changes for so many images of a side: all moves equally likely, half mirrored, brightness evenly spread."""
    reach = round(config.shift * side)
    offsets = torch.randint(0, 2 * reach + 1, (2, count), generator=generator) if reach else None
    mirrored = torch.rand(count, generator=generator) < 0.5 if config.flip else None
    brightness = 1 + config.brightness * (2 * torch.rand(count, generator=generator) - 1) if config.brightness else None
    return Changes(reach, offsets, mirrored, brightness)
