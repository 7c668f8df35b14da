"""Where rows come from. One file here = one source that a config can name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import pandas as pd

from distillery.registry import Registry
from distillery.serving.reading import Feeds, Reading, column_feeds, table_feeds
from distillery.store.checksums import remembered


@dataclass(frozen=True)
class Rows:
    """All rows of a source, in a fixed order, not yet read where reading is expensive.

    Attributes:
        kind: What one row is.
        labels: Class of each row [N], as the source names it; anything for rows without a label.
        digest: Changes whenever any row, label or the order changes.
        given_test: True for rows of a test set that came with the data [N]; None if there is none.
        unlabeled: True for rows without a label [N], which only the teachers answer; None if there is none.
        hashes: Of the content of each image, uint64 [N], where the source knows them; see `contents`.
        frame: Table rows [N, columns], label excluded, as the models read them: numbers, or text; None for images.
        reading: How the cells of a table became `frame`; None: they are numbers and text already.
        raw: The same rows as other programs read them, for classifiers from outside; None: like `frame`.
        read: Pixels of one image, uint8 [H, W, channels]; None for tables.
        names: A name per row for messages (file names); empty if rows have none.
        channels: 1 or 3 for images.
        on_error: What to do with an image that cannot be read.
        notes: A sentence for each thing that was left out, rewritten or looks wrong in the source; it names the column
            or file. They are logged before anything trains, and stand in the report.
        look: Further notes, for which every image has to be opened: asked for when the rows are prepared.
    """

    kind: Literal["image", "table"]
    labels: np.ndarray
    digest: str
    given_test: np.ndarray | None = None
    unlabeled: np.ndarray | None = None
    frame: pd.DataFrame | None = None
    reading: Reading | None = None
    raw: Callable[[], pd.DataFrame] | None = field(default=None, repr=False)
    read: Callable[[int], np.ndarray] | None = None
    names: tuple[str, ...] = field(default=(), repr=False)
    hashes: np.ndarray | None = field(default=None, repr=False)
    channels: int = 3
    on_error: Literal["stop", "skip"] = "stop"
    notes: tuple[str, ...] = field(default=(), repr=False)
    look: Callable[[], list[str]] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def as_stored(self) -> pd.DataFrame:
        """The rows of a table as other programs read them: times as they stand, truth values as such."""
        assert self.frame is not None
        return self.frame if self.raw is None else self.raw()

    def contents(self) -> np.ndarray:
        """A hash of what each row holds besides its label, uint64 [N]: equal rows have equal ones, wherever they stand.

        Raises:
            InputError: An image cannot be read.
        """
        if self.hashes is not None:
            return self.hashes
        if self.frame is not None:
            cells = pd.DataFrame(column_feeds(self.frame))
            return pd.util.hash_pandas_object(cells, index=False).to_numpy()
        assert self.read is not None
        return np.array([short_hash(self.read(row).tobytes()) for row in range(len(self))], np.uint64)

    def batches(self, rows: np.ndarray, size: int = 4096) -> Iterator[np.ndarray]:
        """Row ids in the batches that `feed` takes: `size` rows of a table, one image (sizes may differ)."""
        step = size if self.kind == "table" else 1
        return (rows[start : start + step] for start in range(0, len(rows), step))

    def feed(self, rows: np.ndarray) -> Feeds:
        """One batch of raw rows as named inputs of the exported model.

        Raises:
            InputError: An image cannot be read.
        """
        if self.frame is not None:
            return table_feeds(self.frame.iloc[rows])
        assert self.read is not None
        return {"image": np.stack([self.read(int(row)) for row in rows])}


class Traits(TypedDict):
    """Facts about a source: what one of its rows is."""

    kind: Literal["image", "table"]


SOURCES: Registry[Rows, Traits] = Registry("data source", "distillery.sources", Traits)


def short_hash(content: bytes) -> int:
    """64 bits."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def file_hash(file: Path) -> int:
    """The short hash of the bytes of a file, which is not read again while it stays as it is; see `checksums`.

    That of no bytes if it cannot be read: the source tells that when it reads its pixels.
    """
    try:
        return int(remembered(file, lambda path: short_hash(path.read_bytes())))
    except OSError:
        return short_hash(b"")
