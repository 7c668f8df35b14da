"""A folder of images, one sub-folder per class."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

import numpy as np

from distillery.errors import InputError
from distillery.serving.image_file import DECODING, ImageError, read_image
from distillery.sources import SOURCES, Rows, file_hash
from distillery.sources.images.class_folders import labelled_images
from distillery.sources.images.image_notes import changed_by_reading, equal_files
from distillery.sources.images.image_tree import HIDDEN_KINDS, ImageTree, image_tree, shown


@SOURCES.register("folder", kind="image")
def folder(*, path: str, gray: bool = False, on_error: Literal["stop", "skip"] = "stop") -> Rows:
    """Images below `path`: ``<class>/*``, or ``train/<class>/*``, perhaps with ``val/`` and ``test/`` beside it.

    * Images in deeper folders are of the class at the top.
    * Images are all files that the installed Pillow reads, hidden ones excepted. The notes say what is left out.
    * Pixels are what a viewer shows: turned by the EXIF orientation, transparent ones over white; see `image_file`.
    * ``test/`` is the test split, or else ``val/`` is; without both, a share of all images. Where there are both, the
      images of ``val/`` are added to those of ``train/``.

    Args:
        path: The folder.
        gray: Read one channel instead of three.
        on_error: Whether an unreadable image stops the run or is left out and counted.

    Raises:
        InputError: The folder is missing or holds no images, or a class would be lost or mistaken for something else.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise InputError(f"data.path: expected a folder of images, got {path!r}, which does not exist")
    tree = image_tree(root)
    images = labelled_images(tree)
    files = images.files
    labels = np.array(images.labels)
    in_test = np.arange(len(files)) >= len(files) - images.test_count
    hashes = np.array([file_hash(file) for file in files], np.uint64)
    names = [shown(file, root) for file in files]

    return Rows(
        "image",
        labels,
        _digest(tree, files, hashes, gray),
        given_test=in_test if images.test_count else None,
        read=lambda row: read_file(files[row], gray),
        names=tuple(shown(file) for file in files),
        hashes=hashes,
        channels=1 if gray else 3,
        on_error=on_error,
        notes=(*tree.notes(), *images.notes, *equal_files(hashes, labels, in_test, names)),
        look=lambda: changed_by_reading(files, root),
    )


def read_file(file: Path, gray: bool = False) -> np.ndarray:
    """Pixels of an image file, uint8 [H, W, 1 or 3]; see `read_image`.

    Raises:
        InputError: The file cannot be read as an image.
    """
    try:
        return read_image(file, gray)
    except ImageError as error:
        raise InputError(f"cannot read the image {shown(file)!r}: {error}") from error


def _digest(tree: ImageTree, files: list[Path], hashes: np.ndarray, gray: bool) -> str:
    state = hashlib.blake2b(b"gray" if gray else b"rgb", digest_size=12)
    state.update(f"decoding {DECODING}".encode())
    for file, content in zip(files, hashes, strict=True):
        state.update(os.fsencode(file.relative_to(tree.root)) + b"\0" + content.tobytes())

    # So that the notes on what is left out are new where that is. Hidden files come and go as folders are looked at.
    for kind, paths in sorted(tree.left_out.items()):
        if kind not in HIDDEN_KINDS:
            state.update(b"".join(os.fsencode(path.relative_to(tree.root)) + b"\0" for path in sorted(paths)))
    return state.hexdigest()
