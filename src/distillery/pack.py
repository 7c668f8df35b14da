"""The pack: every row encoded once into one uncompressed array that later stages map into memory.

Rows are written by the chunk, and each chunk is noted with its CRC-32 in a journal beside the array. A run that was
killed goes on with the chunks whose bytes still are what the journal says; nothing else that it left is trusted.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distillery.data import Rows
from distillery.errors import InputError

CHUNK_BYTES, CHUNK_ROWS = 16 << 20, 1 << 16  # at most, of what is noted at once
NAME, JOURNAL = "inputs.npy", "inputs.journal"

log = logging.getLogger(__name__)


def pack(work: Path, rows: Rows, encode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Writes ``inputs.npy`` (images: uint8, tables: float32) in bounded memory; returns which rows could be read [N].

    Args:
        work: Where; perhaps what a killed run left there.
        rows: The source.
        encode: The network's inputs [B, ...] of rows [B]; one image or a batch of a table's rows at a time.

    Raises:
        InputError: An image cannot be read and the source says to stop, or none can.
        OSError: The disk is full.
    """
    usable = np.ones(len(rows), bool)
    try:
        begun = _Begun.open(work) or _Begun.create(work, len(rows), _first(rows, encode), rows.kind)
        done = begun.whole()
        if done:
            log.info("data: %d of %d chunks are there already", len(done), -(-len(rows) // begun.chunk_rows))
        for start in range(0, len(rows), begun.chunk_rows):
            ids = np.arange(start, min(start + begun.chunk_rows, len(rows)))
            if start in done:
                usable[done[start]] = False
                continue
            content = np.zeros((len(ids), *begun.shape[1:]), begun.dtype)
            for batch in rows.batches(ids):
                encoded = _encoded(batch, rows, encode)
                if encoded is None:
                    usable[batch] = False
                else:
                    content[batch - start] = encoded
            begun.write(start, content, ids[~usable[ids]])
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, _needed(work), str(work)) from error
        raise
    if not usable.any():
        raise InputError("data: expected readable rows, got none")
    return usable


def finish(work: Path) -> None:
    """Removes the journal, when nothing of the stage is left to do."""
    (work / JOURNAL).unlink()


def _first(rows: Rows, encode: Callable[[np.ndarray], np.ndarray]) -> tuple[int, ...]:
    """The shape of one encoded row."""
    for row in range(len(rows)):
        try:
            return encode(np.array([row])).shape[1:]
        except InputError:
            if rows.on_error == "stop":
                break
    _encoded(np.array([0]), rows, encode)
    raise InputError("data: expected readable rows, got none")


def _encoded(batch: np.ndarray, rows: Rows, encode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
    try:
        return encode(batch)
    except InputError as error:
        if rows.on_error == "stop":
            raise InputError(f"{error}; set data.on_error to skip to leave such images out") from error
        log.warning("left out: %s", error)
        return None


def _needed(work: Path) -> str:
    try:
        size = (work / NAME).stat().st_size
    except OSError:
        size = 0
    return f"{NAME} needs {size:,} bytes in all" if size else f"{NAME} could not be begun"


class _Begun:
    """An array on disk that is being filled, and its journal."""

    def __init__(self, work: Path) -> None:
        mapped = np.load(work / NAME, mmap_mode="r")
        self.shape, self.dtype, self._offset = mapped.shape, mapped.dtype, mapped.offset
        self._row_bytes = max(1, mapped[:1].nbytes)
        self.chunk_rows = max(1, min(CHUNK_ROWS, CHUNK_BYTES // self._row_bytes))
        self._file, self._journal = work / NAME, work / JOURNAL

    @classmethod
    def open(cls, work: Path) -> _Begun | None:
        """What a killed run left, if it came as far as the journal."""
        try:
            return cls(work) if (work / JOURNAL).exists() else None
        except (OSError, ValueError):
            return None

    @classmethod
    def create(cls, work: Path, rows: int, shape: tuple[int, ...], kind: str) -> _Begun:
        """An empty array with all its bytes reserved, so that a disk that is too small is told at once."""
        (work / JOURNAL).unlink(missing_ok=True)
        dtype = np.dtype(np.uint8 if kind == "image" else np.float32)
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, *shape)}
        with (work / NAME).open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            size = rows * int(np.prod(shape)) * dtype.itemsize
            stream.flush()
            _reserve(stream.fileno(), stream.tell() + size)
        (work / JOURNAL).touch()
        return cls(work)

    def whole(self) -> dict[int, list[int]]:
        """First row of every chunk whose bytes are what was noted, each with the rows in it that were left out."""
        found: dict[int, list[int]] = {}
        with self._file.open("rb") as stream:
            for line in self._journal.read_text().splitlines():
                try:
                    note: dict[str, Any] = json.loads(line)
                except ValueError:
                    continue  # the line that was being written
                rows = min(self.chunk_rows, self.shape[0] - note["start"])
                stream.seek(self._offset + note["start"] * self._row_bytes)
                if zlib.crc32(stream.read(rows * self._row_bytes)) == note["crc"]:
                    found[note["start"]] = note["left_out"]
        return found

    def write(self, start: int, content: np.ndarray, left_out: np.ndarray) -> None:
        """Puts rows in their place, then notes them."""
        with self._file.open("r+b") as stream:
            stream.seek(self._offset + start * self._row_bytes)
            stream.write(content.data)
        note = {"start": start, "crc": zlib.crc32(content.data), "left_out": left_out.tolist()}
        with self._journal.open("a") as journal:
            journal.write("\n" + json.dumps(note))


def _reserve(descriptor: int, size: int) -> None:
    os.truncate(descriptor, size)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # where the filesystem cannot reserve, the writes themselves will tell
