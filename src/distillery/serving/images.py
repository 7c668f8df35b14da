"""Images as a server is asked about them: pixels, files, or files in base64."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
import pandas as pd

from .cells import CellError
from .image_file import ImageError, from_base64, read_image

COLUMN = "image"

Images: TypeAlias = np.ndarray | str | bytes | Iterable[object]
Asked: TypeAlias = pd.DataFrame | Mapping[str, Images] | Images
"""What a server may be asked; see `pixels_of`."""


def pixels_of(asked: Asked, gray: bool) -> Iterator[np.ndarray]:
    """Each image uint8 [1, H, W, 1 or 3], of what a server was asked.

    Args:
        asked: Pixels uint8 [N, H, W, channels] or [H, W, channels], below ``image`` or alone; or a table with a column
            ``image`` of files: bytes, or text in base64; or a list of these.
        gray: Whether the model takes one channel.

    Raises:
        CellError: It is none of these.
    """
    if isinstance(asked, pd.DataFrame):
        asked = {name: list(asked[name]) for name in asked.columns}
    if isinstance(asked, dict):
        if COLUMN not in asked:
            raise CellError(COLUMN, "images below this name", f"only {', '.join(map(str, asked))}")
        asked = asked[COLUMN]
    if isinstance(asked, np.ndarray) and asked.dtype != object:
        images: Iterable[object] = asked if asked.ndim == 4 else [asked]
    else:
        images = [asked] if isinstance(asked, str | bytes) else asked
    for row, image in enumerate(images):
        if isinstance(image, dict):
            image = image.get(COLUMN, image.get("b64"))
        try:
            yield _pixels(image, gray, row)[None]
        except ImageError as error:
            raise CellError(COLUMN, "an image", str(error), row) from error


def _pixels(image: object, gray: bool, row: int) -> np.ndarray:
    if isinstance(image, bytes):
        return read_image(image, gray)
    if isinstance(image, str):
        return read_image(from_base64(image), gray)
    pixels = np.asarray(image)
    channels = 1 if gray else 3
    if pixels.ndim != 3 or pixels.shape[-1] != channels or pixels.dtype.kind not in "iuf":
        got = f"{pixels.dtype} of shape {pixels.shape}"
        raise CellError(COLUMN, f"pixels 0 to 255 of shape (height, width, {channels})", got, row)
    if pixels.size and (pixels.min() < 0 or pixels.max() > 255 or (pixels != np.round(pixels)).any()):
        raise CellError(COLUMN, "whole pixels 0 to 255", f"{pixels.min()} to {pixels.max()}", row)
    return pixels.astype(np.uint8)
