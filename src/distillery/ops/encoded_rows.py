"""Encoded rows on disk, indexed like one array wherever they lie.

Those of a table are one file. Those of images lie in several, the parts, since a part may have been written by an
earlier stage: see `image_pack`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

NAME = "inputs.npy"
FOLDER, INDEX = "inputs", "inputs/index.npz"
PART = re.compile(r"[0-9A-Za-z._-]+\.npy")


class Packed:
    """Rows [N, ...] of several arrays; what is taken out is a copy, but for a single row.

    Args:
        arrays: The parts, [rows, ...] each.
        part: The part that each row lies in, int32 [N].
        place: Its place there, int64 [N].
    """

    def __init__(self, arrays: Sequence[np.ndarray], part: np.ndarray, place: np.ndarray) -> None:
        self._arrays, self._part, self._place = arrays, part, place
        self._main = int(np.argmax([len(array) for array in arrays]))
        self.dtype = arrays[0].dtype
        self.shape = (len(place), *arrays[0].shape[1:])

    def __len__(self) -> int:
        return len(self._place)

    def __getitem__(self, key: int | np.integer | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows by numbers, a mask or a slice, [B, ...]; one row [...] by its number."""
        part, place = self._part[key], self._place[key]
        if part.ndim == 0:
            row: np.ndarray = self._arrays[int(part)][place]
            return row

        main = self._arrays[self._main]
        elsewhere = np.flatnonzero(part != self._main)
        if not len(elsewhere):
            return main.take(place, axis=0)

        # Nearly all rows are in the largest part: take as many from there, and replace the few that are not.
        rows = main.take(np.where(part == self._main, place, 0), axis=0)
        for number in np.unique(part[elsewhere]):
            others = elsewhere[part[elsewhere] == number]
            rows[others] = self._arrays[number][place[others]]
        return rows

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)


Encoded = np.ndarray | Packed
"""Rows that are indexed by numbers or a slice."""


@dataclass(frozen=True)
class Index:
    """Where each image of a stage lies, kept as ``inputs/index.npz``.

    Attributes:
        graph: Digest of what encoded them.
        hashes: Of the content of each, uint64 [N]; none where the source does not know them.
        parts: Names of the files beside it.
        part: The part that each lies in, int32 [N].
        place: Its place there, int64 [N].
        usable: Whether it could be read, bool [N].
    """

    graph: str
    hashes: np.ndarray
    parts: list[str]
    part: np.ndarray
    place: np.ndarray
    usable: np.ndarray

    def save(self, stage: Path) -> None:
        """Writes it into a stage directory."""
        np.savez(stage / INDEX, **{**vars(self), "graph": np.array(self.graph), "parts": np.array(self.parts)})

    @classmethod
    def load(cls, stage: Path) -> Index:
        """The one of a stage directory.

        Raises:
            OSError: There is none.
            ValueError: It is damaged.
        """
        try:
            with np.load(stage / INDEX) as arrays:
                fields = {name: arrays[name] for name in arrays.files}
            parts = [str(name) for name in fields.pop("parts")]
            graph = str(fields.pop("graph"))
            index = cls(graph, fields["hashes"], parts, fields["part"], fields["place"], fields["usable"])
        except (KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{stage / INDEX} is damaged: {error}") from error
        if not all(PART.fullmatch(name) for name in index.parts):
            raise ValueError(f"{stage / INDEX}: expected names of files, got {', '.join(index.parts)}")
        return index

    def rows_of(self, hashes: np.ndarray) -> np.ndarray:
        """The row here that holds the same image, int64 [len(hashes)]; -1 where there is none."""
        rows = np.flatnonzero(self.usable)
        if not len(self.hashes) or not len(rows):
            return np.full(len(hashes), -1, np.int64)
        hashes_here, first = np.unique(self.hashes[rows], return_index=True)
        nearest = np.searchsorted(hashes_here, hashes).clip(max=len(hashes_here) - 1)
        return np.where(hashes_here[nearest] == hashes, rows[first[nearest]], -1)

    def opened(self, stage: Path) -> Packed:
        """The rows, memory-mapped."""
        arrays = [mapped(stage / FOLDER / name) for name in self.parts]
        return Packed(arrays, self.part, self.place)


def mapped(file: Path) -> np.ndarray:
    """An array on disk, memory-mapped."""
    return np.asarray(np.load(file, mmap_mode="r"))  # a plain array is indexed faster than numpy's memmap


def open_inputs(stage: Path) -> Encoded:
    """The encoded rows of a `data` stage directory, memory-mapped."""
    if (stage / INDEX).exists():
        return Index.load(stage).opened(stage)
    return mapped(stage / NAME)
