"""Datasets of timm: whatever its own create_dataset reads by row number, ``hfds/...``, ``torch/...``, or a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from distillery.errors import InputError
from distillery.serving.image_file import DECODING, ImageError, read_image
from distillery.sources import SOURCES, Rows, file_hash, short_hash
from distillery.sources.images.image_notes import equal_files


class Images(Protocol):
    """A dataset whose rows, an image and its label, can be read by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[bytes | Image.Image, object]: ...


@SOURCES.register("timm", kind="image")
def timm_dataset(
    *,
    name: str,
    root: str = "",
    train_split: str = "train",
    test_split: str | None = None,
    download: bool = False,
    gray: bool = False,
    on_error: Literal["stop", "skip"] = "stop",
) -> Rows:
    """Images of a timm dataset, found through ``timm.data.create_dataset`` and read like those of a folder.

    Args:
        name: timm's dataset string, for instance ``torch/cifar10`` or ``hfds/mnist``.
        root: Folder that holds the data or receives the download.
        train_split: Name of the split to train and validate on.
        test_split: Name of the split to keep as test; None splits one off.
        download: Whether timm may fetch the data.
        gray: Read one channel instead of three.
        on_error: Whether an unreadable image stops the run or is left out and counted.

    Raises:
        InputError: timm cannot open the dataset, reads it as a stream, or its splits have other classes.
    """
    splits = [split for split in (train_split, test_split) if split is not None]
    parts = [_open(name, root, split, download) for split in splits]
    _check_classes(parts, splits)
    rows = [(part, index) for part in parts for index in range(len(part))]
    names = [f"{split}/{index}" for split, part in zip(splits, parts, strict=True) for index in range(len(part))]

    def read(row: int) -> np.ndarray:
        try:
            return read_image(_stored(*rows[row])[0], gray)
        except ImageError as error:
            raise InputError(f"cannot read the image {names[row]!r} of {name!r}: {error}") from error

    texts, contents = [], []
    for part, index in rows:
        target, content = _label_and_hash(part, index, gray)
        texts.append(str(target))
        contents.append(content)
    labels, hashes = np.array(texts), np.array(contents, np.uint64)
    in_test = np.arange(len(rows)) >= len(parts[0])

    state = hashlib.blake2b(repr((name, splits, gray, DECODING)).encode(), digest_size=12)
    for text, content in zip(texts, hashes, strict=True):
        state.update(text.encode() + b"\0" + content.tobytes())
    return Rows(
        "image",
        labels,
        state.hexdigest(),
        given_test=in_test if len(parts) > 1 else None,
        read=read,
        names=tuple(names),
        hashes=hashes,
        channels=1 if gray else 3,
        on_error=on_error,
        notes=tuple(equal_files(hashes, labels, in_test, names)),
    )


def _open(name: str, root: str, split: str, download: bool) -> Images:
    from timm.data import create_dataset  # takes seconds, and few need it
    from torch.utils.data import IterableDataset

    try:
        part = create_dataset(name, root=root or None, split=split, download=download)
    except Exception as error:
        raise InputError(f"data.name: timm cannot open {name!r}, split {split!r}: {error}") from error
    if isinstance(part, IterableDataset):
        raise InputError(f"data.name: expected a dataset whose rows can be read by number, got the stream {name!r}")
    if hasattr(part, "loader"):  # torchvision's datasets of files would decode them in their own way
        part.loader = lambda path: Path(path).read_bytes()
    return part


def _stored(part: Images, index: int) -> tuple[bytes | Image.Image, object]:
    """(an image's file, or what torchvision has opened, and its label)."""
    # Not part[index] of timm's own datasets: it decodes in its own way, and gives the next image for a damaged one.
    reader = getattr(part, "reader", None)
    if reader is None:
        stored, target = part[index][:2]
        return stored, target
    opened, target = reader[index][:2]
    with opened:
        return opened.read(), target


def _label_and_hash(part: Images, index: int, gray: bool) -> tuple[object, int]:
    """An image's label, and a hash of its content, for which a file that has stayed as it was is not read again."""
    files = _files(part)
    if files is not None:
        file, target = files[index][:2]
        return target, file_hash(Path(file))
    stored, target = _stored(part, index)
    return target, _content_hash(stored, gray)


def _files(part: Images) -> Sequence[tuple[str, object]] | None:
    """The files and labels of a folder of images, as timm or torchvision reads it; None for other datasets."""
    from timm.data.readers.reader_image_folder import ReaderImageFolder
    from torchvision.datasets import DatasetFolder

    reader = getattr(part, "reader", part)
    if not isinstance(reader, (ReaderImageFolder, DatasetFolder)):
        return None
    samples: Sequence[tuple[str, object]] = reader.samples
    return samples


def _content_hash(stored: bytes | Image.Image, gray: bool) -> int:
    if isinstance(stored, bytes):
        return short_hash(stored)
    try:
        return short_hash(read_image(stored, gray).tobytes())
    except ImageError:  # told when its pixels are read
        return short_hash(b"")


def _check_classes(parts: list[Images], splits: list[str]) -> None:
    numbers = [getattr(getattr(part, "reader", part), "class_to_idx", None) for part in parts]
    if any(mapping != numbers[0] for mapping in numbers):
        raise InputError(f"data.test_split: expected the same classes in the splits {' and '.join(splits)}")
