"""Any dataset string that timm's own create_dataset reads: ``hfds/...``, ``torch/...``, ``wds/...``, ``tfds/...``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distillery.checksums import remembered
from distillery.data import SOURCES, Rows, short_hash
from distillery.errors import InputError


@SOURCES.register("timm", kind="image")
def timm_dataset(
    *,
    name: str,
    root: str = "",
    train_split: str = "train",
    test_split: str | None = None,
    download: bool = False,
    gray: bool = False,
) -> Rows:
    """Images of a timm dataset, read through ``timm.data.create_dataset``.

    Args:
        name: timm's dataset string, for instance ``torch/cifar10`` or ``hfds/mnist``.
        root: Folder that holds the data or receives the download.
        train_split: Name of the split to train and validate on.
        test_split: Name of the split to keep as test; None splits one off.
        download: Whether timm may fetch the data.
        gray: Read one channel instead of three.

    Raises:
        InputError: timm cannot open the dataset.
    """
    parts = [_open(name, root, split, download) for split in (train_split, test_split) if split is not None]
    labels = np.concatenate([[str(_label(part, i)) for i in range(len(part))] for part in parts])
    starts = np.cumsum([0, *map(len, parts)])

    def read(row: int) -> np.ndarray:
        index = int(np.searchsorted(starts, row, side="right")) - 1
        image = parts[index][row - int(starts[index])][0]
        pixels = np.asarray(image.convert("L" if gray else "RGB"))
        return pixels[..., None] if gray else pixels

    files = [file for part in parts for file, _ in _files(part)]
    known = len(files) == len(labels)
    hashes = np.empty(len(labels), np.uint64)
    for row in range(len(labels)):
        content = partial(_content_hash, read, row)
        hashes[row] = remembered(Path(files[row]), content) if known else content()

    state = hashlib.blake2b(repr((name, train_split, test_split, gray, len(labels))).encode(), digest_size=12)
    for row in range(len(labels)):
        state.update(hashes[row].tobytes() + labels[row].encode() + b"\0")
    given = np.arange(len(labels)) >= len(parts[0]) if len(parts) > 1 else None
    channels = 1 if gray else 3
    return Rows("image", labels, state.hexdigest(), given_test=given, read=read, hashes=hashes, channels=channels)


def _content_hash(read: Callable[[int], np.ndarray], row: int, file: Path | None = None) -> int:
    return short_hash(read(row).tobytes())


def _files(dataset: Any) -> list[tuple[str, Any]]:
    """The file and label of each image of a folder; none of a data set that is kept otherwise."""
    from timm.data.readers.reader_image_folder import ReaderImageFolder

    reader = getattr(dataset, "reader", None)
    return reader.samples if isinstance(reader, ReaderImageFolder) else []


def _open(name: str, root: str, split: str, download: bool) -> Any:
    from timm.data import create_dataset  # takes seconds, and few need it

    try:
        return create_dataset(name, root=root or None, split=split, download=download)
    except Exception as error:
        raise InputError(f"data.name: timm cannot open {name!r}, split {split!r}: {error}") from error


def _label(dataset: Any, index: int) -> Any:
    targets = getattr(dataset, "targets", None)
    if targets is None and (files := _files(dataset)):
        return files[index][1]
    return targets[index] if targets is not None else dataset[index][1]
