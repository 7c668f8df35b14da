"""Any dataset string that timm's own create_dataset reads: ``hfds/...``, ``torch/...``, ``wds/...``, ``tfds/...``."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from distillery.data import SOURCES, Rows
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

    state = hashlib.blake2b(repr((name, train_split, test_split, gray, len(labels))).encode(), digest_size=12)
    for row in range(len(labels)):
        state.update(read(row).tobytes() + labels[row].encode())
    given = np.arange(len(labels)) >= len(parts[0]) if len(parts) > 1 else None
    return Rows("image", labels, state.hexdigest(), given_test=given, read=read, channels=1 if gray else 3)


def _open(name: str, root: str, split: str, download: bool) -> Any:
    from timm.data import create_dataset  # takes seconds, and few need it

    try:
        return create_dataset(name, root=root or None, split=split, download=download)
    except Exception as error:
        raise InputError(f"data.name: timm cannot open {name!r}, split {split!r}: {error}") from error


def _label(dataset: Any, index: int) -> Any:
    targets = getattr(dataset, "targets", None)
    return targets[index] if targets is not None else dataset[index][1]
