"""Where rows come from. One file here = one source that a config can name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from distillery.registry import Registry

SOURCES = Registry("data source", "distillery.data")

Feeds = dict[str, np.ndarray]
NUMBERS = "numbers"  # the input of a table that holds nothing else


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
        frame: Table rows [N, columns], label excluded; None for images.
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
    read: Callable[[int], np.ndarray] | None = None
    names: tuple[str, ...] = field(default=(), repr=False)
    hashes: np.ndarray | None = field(default=None, repr=False)
    channels: int = 3
    on_error: Literal["stop", "skip"] = "stop"
    notes: tuple[str, ...] = field(default=(), repr=False)
    look: Callable[[], list[str]] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def contents(self) -> np.ndarray:
        """A hash of what each row holds besides its label, uint64 [N]: equal rows have equal ones, wherever they stand.

        Raises:
            InputError: An image cannot be read.
        """
        if self.hashes is not None:
            return self.hashes
        if self.frame is not None:
            cells = pd.DataFrame(column_feeds(self.frame))  # a column's type may change with a row; these do not
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


def short_hash(content: bytes) -> int:
    """64 bits."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def is_number(column: pd.Series) -> bool:
    """Whether a column is fed as numbers (booleans count) or as text."""
    return bool(pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column))


def as_text(column: pd.Series) -> pd.Series:
    """Cells as text, missing ones None; a whole number is written as one, whatever its type."""
    if not is_number(column) or pd.api.types.is_bool_dtype(column):
        return column.astype(object).where(column.notna(), None)
    cells = zip(column, column.isna(), strict=True)
    text = [None if gone else str(int(v)) if float(v).is_integer() else str(v) for v, gone in cells]
    return pd.Series(text, column.index, dtype=object)


def table_feeds(frame: pd.DataFrame) -> Feeds:
    """Rows of a table as the inputs of its graph; see `side_by_side`."""
    return side_by_side(column_feeds(frame))


def side_by_side(columns: Feeds) -> Feeds:
    """``{NUMBERS: float64 [N, columns]}`` where all columns hold numbers, else the columns as they are.

    Each input of a session costs a microsecond, as much as a layer of a small network.
    """
    if any(values.dtype != np.float64 for values in columns.values()):
        return columns
    return {NUMBERS: np.stack(list(columns.values()), axis=1)}


def column_feeds(frame: pd.DataFrame) -> Feeds:
    """Each column by its name: float64 [N] for numbers, text [N] (missing = "") for all others."""
    feeds: Feeds = {}
    for name in frame.columns:
        column = frame[name]
        if is_number(column):
            feeds[str(name)] = column.to_numpy(np.float64, na_value=np.nan)
        else:
            feeds[str(name)] = column.astype(object).where(column.notna(), "").astype(str).to_numpy(object)
    return feeds
