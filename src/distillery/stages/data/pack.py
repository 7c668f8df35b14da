"""The pack: rows encoded once into an uncompressed array that later stages map into memory.

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

from distillery.errors import InputError
from distillery.sources import Rows

CHUNK_BYTES, CHUNK_ROWS = 16 << 20, 1 << 16  # at most, of what is noted at once
JOURNAL = ".journal"

Encode = Callable[[np.ndarray], np.ndarray]
"""Row ids [B] of the source -> the network's inputs [B, ...]; one image or a batch of a table's rows at a time."""

log = logging.getLogger(__name__)


def pack(file: Path, rows: Rows, ids: np.ndarray, encode: Encode) -> np.ndarray:
    """Writes an array (images: uint8, tables: float32) in bounded memory; returns which rows could be read [len(ids)].

    Args:
        file: Where; perhaps a killed run began it. Its journal is left beside it, for `finish`.
        rows: The source.
        ids: Which of its rows, in the order of the array.
        encode: Encodes them.

    Raises:
        InputError: An image cannot be read and the source says to stop, or none can.
        OSError: The disk is full.
    """
    usable = np.ones(len(ids), bool)
    try:
        begun = _Begun.open(file) or _Begun.create(file, len(ids), _first(rows, ids, encode), rows.kind)
        done = begun.whole(ids)
        if done:
            log.info("data: %d of %d chunks are there already", len(done), -(-len(ids) // begun.chunk_rows))
        for start in range(0, len(ids), begun.chunk_rows):
            places = np.arange(start, min(start + begun.chunk_rows, len(ids)))
            if start in done:
                usable[done[start]] = False
                continue
            content = np.zeros((len(places), *begun.shape[1:]), begun.dtype)
            for batch in rows.batches(places):
                encoded = _encoded(ids[batch], rows, encode)
                if encoded is None:
                    usable[batch] = False
                else:
                    content[batch - start] = encoded
            begun.write(start, content, ids[places], places[~usable[places]])
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, _needed(file), str(file.parent)) from error
        raise
    return usable


def finish(file: Path) -> None:
    """Removes the journal, when nothing of the stage is left to do."""
    file.with_suffix(JOURNAL).unlink(missing_ok=True)


def check_usable(usable: np.ndarray) -> None:
    """Refuses a source none of whose rows could be read.

    Raises:
        InputError: There is none.
    """
    if not usable.any():
        raise InputError("data: expected readable rows, got none")


def _first(rows: Rows, ids: np.ndarray, encode: Encode) -> tuple[int, ...]:
    """The shape of one encoded row."""
    for row in ids:
        try:
            return encode(np.array([row])).shape[1:]
        except InputError:
            if rows.on_error == "stop":
                break
    _encoded(ids[:1], rows, encode)
    raise InputError("data: expected readable rows, got none")


def _encoded(batch: np.ndarray, rows: Rows, encode: Encode) -> np.ndarray | None:
    try:
        return encode(batch)
    except InputError as error:
        if rows.on_error == "stop":
            raise InputError(f"{error}; set data.on_error to skip to leave such images out") from error
        log.warning("left out: %s", error)
        return None


def _needed(file: Path) -> str:
    try:
        size = file.stat().st_size
    except OSError:
        size = 0
    return f"{file.name} needs {size:,} bytes in all" if size else f"{file.name} could not be begun"


class _Begun:
    """An array on disk that is being filled, and its journal."""

    def __init__(self, file: Path) -> None:
        mapped = np.load(file, mmap_mode="r")
        self.shape, self.dtype, self._offset = mapped.shape, mapped.dtype, mapped.offset
        self._row_bytes = max(1, mapped[:1].nbytes)
        self.chunk_rows = max(1, min(CHUNK_ROWS, CHUNK_BYTES // self._row_bytes))
        self._file, self._journal = file, file.with_suffix(JOURNAL)

    @classmethod
    def open(cls, file: Path) -> _Begun | None:
        """What a killed run left, if it came as far as the journal."""
        try:
            return cls(file) if file.with_suffix(JOURNAL).exists() else None
        except (OSError, ValueError):
            return None

    @classmethod
    def create(cls, file: Path, rows: int, shape: tuple[int, ...], kind: str) -> _Begun:
        """An empty array with all its bytes reserved, so that a disk that is too small is told at once."""
        file.with_suffix(JOURNAL).unlink(missing_ok=True)
        dtype = np.dtype(np.uint8 if kind == "image" else np.float32)
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, *shape)}
        with file.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            size = rows * int(np.prod(shape)) * dtype.itemsize
            stream.flush()
            _reserve(stream.fileno(), stream.tell() + size)
        file.with_suffix(JOURNAL).touch()
        return cls(file)

    def whole(self, ids: np.ndarray) -> dict[int, list[int]]:
        """First place of every chunk of these rows whose bytes are what was noted, and the places left out in it."""
        found: dict[int, list[int]] = {}
        with self._file.open("rb") as stream:
            for line in self._journal.read_text().splitlines():
                try:
                    note: dict[str, Any] = json.loads(line)
                except ValueError:
                    continue  # the line that was being written
                start, stop = note["start"], min(note["start"] + self.chunk_rows, self.shape[0])
                if note.get("rows") != zlib.crc32(ids[start:stop].tobytes()):
                    continue  # when it was begun, other rows were to lie there
                stream.seek(self._offset + start * self._row_bytes)
                if zlib.crc32(stream.read((stop - start) * self._row_bytes)) == note["crc"]:
                    found[start] = note["left_out"]
        return found

    def write(self, start: int, content: np.ndarray, ids: np.ndarray, left_out: np.ndarray) -> None:
        """Puts rows in their place, then notes which they are, and the places that were left out."""
        with self._file.open("r+b") as stream:
            stream.seek(self._offset + start * self._row_bytes)
            stream.write(content.data)
        crc, rows = zlib.crc32(content.data), zlib.crc32(ids.tobytes())
        note = {"start": start, "crc": crc, "rows": rows, "left_out": left_out.tolist()}
        with self._journal.open("a") as journal:
            journal.write("\n" + json.dumps(note))


def _reserve(descriptor: int, size: int) -> None:
    os.truncate(descriptor, size)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # where the filesystem cannot reserve, the writes themselves will tell
