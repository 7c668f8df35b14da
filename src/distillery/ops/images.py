"""Whole batches of images moved, mirrored and normalised at once; what moves bytes keeps bytes. B images of side S."""

from __future__ import annotations

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from torch import nn


def shift_images(images: np.ndarray, top: np.ndarray, left: np.ndarray, reach: int) -> np.ndarray:
    """Each image's window that begins `top` rows and `left` columns into it with `reach` pixels of edge all around.

    Args:
        images: [B, channels, S, S], any type.
        top: Whole numbers 0 ... 2 · `reach`, int64 [B]; at `reach` the image stays where it is.
        left: The same for columns.
        reach: Pixels by which the edges are repeated.

    Returns:
        A new array like `images`, in rows of contiguous memory.
    """
    height, width = images.shape[-2:]
    wide = _padded(images, reach)
    per_image, per_channel, per_row, per_pixel = wide.strides
    shape = (len(images), 2 * reach + 1, 2 * reach + 1, images.shape[1], height, width)
    # Overlapping windows: picking one of them copies whole rows, and no index is made for single pixels.
    windows = as_strided(wide, shape, (per_image, per_row, per_pixel, per_channel, per_row, per_pixel))
    return np.asarray(windows[np.arange(len(images)), top, left])


def _padded(images: np.ndarray, reach: int) -> np.ndarray:
    batch, channels, height, width = images.shape
    below, right = reach + height, reach + width
    wide = np.empty((batch, channels, below + reach, right + reach), images.dtype)
    middle = wide[:, :, reach:below]
    middle[..., reach:right] = images
    middle[..., :reach], middle[..., right:] = images[..., :1], images[..., -1:]
    wide[:, :, :reach], wide[:, :, below:] = wide[:, :, reach : reach + 1], wide[:, :, below - 1 : below]
    return wide


def flip_(images: np.ndarray, which: np.ndarray) -> None:
    """Flips the images [B, ..., S] for which `which` [B] is true left to right, in place."""
    chosen = np.flatnonzero(which)
    if len(chosen):
        images[chosen] = torch.from_numpy(images[chosen]).flip(-1).numpy()


def place(image: np.ndarray, down: int, right: int, mirrored: bool, out: np.ndarray) -> None:
    """Writes one image [channels, S, S] into `out`, which may be of another type, without a copy on the way.

    It is seen through a window that lies `down` rows and `right` columns off, edges repeated, and mirrored after that.
    """
    height, width = image.shape[-2:]
    if mirrored:
        image, right = torch.from_numpy(image).flip(-1).numpy(), -right
    top, below = max(0, -down), min(height, height - down)
    left, end = max(0, -right), min(width, width - right)
    rows = out[:, top:below]
    rows[..., left:end] = image[:, top + down : below + down, left + right : end + right]
    rows[..., :left], rows[..., end:] = rows[..., left : left + 1], rows[..., end - 1 : end]
    out[:, :top], out[:, below:] = out[:, top : top + 1], out[:, below - 1 : below]


def moved_tensor(images: torch.Tensor, top: torch.Tensor, left: torch.Tensor, reach: int) -> torch.Tensor:
    """`moved` for tensors on any device; gives the same pixels."""
    if images.device.type == "cpu":
        return torch.from_numpy(shift_images(images.numpy(), top.numpy(), left.numpy(), reach))
    return _moved_anywhere(images, top, left, reach)


def _moved_anywhere(images: torch.Tensor, top: torch.Tensor, left: torch.Tensor, reach: int) -> torch.Tensor:
    side = torch.arange(-reach, images.shape[-1] + reach, device=images.device).clamp(0, images.shape[-1] - 1)
    wide = images[:, :, side][..., side]
    windows = wide.unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)
    return windows[torch.arange(len(images), device=images.device), :, top.to(images.device), left.to(images.device)]


def mirrored_tensor(images: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """The images [B, channels, S, S], those mirrored for which `which` [B] is true; on the CPU in place."""
    if images.device.type == "cpu":
        flip_(images.numpy(), which.numpy())
        return images
    return torch.where(which.to(images.device)[:, None, None, None], images.flip(-1), images)


class Normalised(nn.Module):
    """Subtracts the mean, divides by the standard deviation (both on the scale 0-255), then runs the backbone."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of pixels [B, channels, S, S]."""
        return self.backbone((pixels - self.mean) * self.std.reciprocal())

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the backbone is given for float pixels, in place."""
        return pixels.sub_(self.mean).mul_(self.std.reciprocal())
