"""Label-preserving changes of a whole batch at once."""

from __future__ import annotations

import torch
from torch.nn.functional import pad


def shift(images: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Images [B, channels, S, S], each moved by whole pixels up to `share` of the side; edges are repeated."""
    batch, _, height, width = images.shape
    reach = round(share * height)
    if reach == 0:
        return images
    padded = pad(images, (reach,) * 4, mode="replicate")
    top, left = torch.randint(0, 2 * reach + 1, (2, batch), generator=generator).to(images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    picture = torch.arange(batch, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images [B, channels, S, S], half of them mirrored left to right."""
    mirrored = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def light(images: torch.Tensor, size: float, generator: torch.Generator) -> torch.Tensor:
    """Images [B, channels, S, S] of 0-255, each brighter or darker by a factor between 1 - `size` and 1 + `size`."""
    factor = 1 + size * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)
    return (images * factor.to(images.device)).clamp(max=255)


def noise(rows: torch.Tensor, deviation: float, generator: torch.Generator) -> torch.Tensor:
    """Encoded rows [B, features] plus Gaussian noise; numbers have unit variance, so `deviation` is in those units."""
    return rows + deviation * torch.randn(rows.shape, generator=generator).to(rows.device)
