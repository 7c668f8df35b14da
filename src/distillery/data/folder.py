"""A folder of images, one sub-folder per class."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from distillery.checksums import remembered
from distillery.data import SOURCES, Rows, short_hash
from distillery.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}


@SOURCES.register("folder", kind="image")
def folder(*, path: str, gray: bool = False, on_error: Literal["stop", "skip"] = "stop") -> Rows:
    """Images below `path`: ``train/<class>/*``, perhaps with ``test/<class>/*`` beside it, or ``<class>/*``.

    Args:
        path: The folder. Without a ``test`` folder all images are split; with one, it is kept as the test split.
        gray: Read one channel instead of three.
        on_error: Whether an unreadable image stops the run or is left out and counted.

    Raises:
        InputError: The folder is missing, holds no images, or its test classes are not its train classes.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise InputError(f"data.path: expected a folder of images, got {path!r}, which does not exist")
    has_parts = (root / "train").is_dir()
    files = _images(root / "train" if has_parts else root)
    test = _test_images(root) if has_parts else []
    if not files:
        raise InputError(f"data.path: expected images in <class>/ folders below {path!r}, got none")
    unknown = {f.parent.name for f in test} - {f.parent.name for f in files}
    if unknown:
        raise InputError(f"data.path: test holds classes that train lacks: {', '.join(sorted(unknown))}")
    everything = files + test
    hashes = np.array([remembered(f, _content_hash) for f in everything], np.uint64)
    return Rows(
        "image",
        np.array([f.parent.name for f in everything]),
        _digest(root, everything, hashes, gray),
        given_test=np.arange(len(everything)) >= len(files) if test else None,
        read=lambda row: read_image(everything[row], gray),
        names=tuple(str(f) for f in everything),
        hashes=hashes,
        channels=1 if gray else 3,
        on_error=on_error,
    )


def read_image(file: Path, gray: bool = False) -> np.ndarray:
    """Pixels of an image file, uint8 [H, W, 1 or 3].

    Raises:
        InputError: The file is damaged or not an image.
    """
    try:
        with Image.open(file) as opened:
            image: Image.Image = opened
            if image.mode.startswith("I;16"):  # 16 bits a pixel: Pillow would clip instead of scaling
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            pixels = np.asarray(image.convert("L" if gray else "RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"cannot read the image {str(file)!r}: {error}") from error
    return pixels[..., None] if gray else pixels


def _content_hash(file: Path) -> int:
    return short_hash(file.read_bytes())


def _images(root: Path) -> list[Path]:
    return sorted(f for f in root.glob("*/*") if f.suffix.lower() in SUFFIXES and f.is_file())


def _test_images(root: Path) -> list[Path]:
    for name in ("test", "val", "validation"):
        if (root / name).is_dir():
            return _images(root / name)
    return []


def _digest(root: Path, files: list[Path], hashes: np.ndarray, gray: bool) -> str:
    state = hashlib.blake2b(b"gray" if gray else b"rgb", digest_size=12)
    for file, content in zip(files, hashes, strict=True):
        state.update(str(file.relative_to(root)).encode() + b"\0" + content.tobytes())
    return state.hexdigest()
