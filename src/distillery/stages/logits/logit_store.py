"""How logits lie on disk: a zarr v3 array [V, N, C] in chunks of rows of one view, each with a CRC-32C.

Any zarr library reads it; of encoded logits it is uint8 [V, N, W], see `encodings`. Reading it here goes by the file,
as a chunk's bytes are the rows and nothing else: into memory that is used again, checked, and made float32 while they
are in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from distillery.ops.encodings import encoding_of

CRC_BYTES = 4
CHUNK_BYTES = 64 << 20  # of a chunk as float32, at most: of many thousand classes fewer rows go into one


class Writer:
    """An array to be filled, in equal chunks; one that a killed run left is gone on with.

    Args:
        path: Where.
        shape: V views, N rows, C classes.
        dtype: ``float16``, ``float32`` or ``int8``.
        chunk_rows: Of a chunk, at most; fewer where they take more than `CHUNK_BYTES`.
        top: Keep so many classes of a row, and the mass of the others.

    Raises:
        InputError: The encoding would not save anything.
    """

    def __init__(
        self, path: Path, shape: tuple[int, int, int], dtype: str, chunk_rows: int, top: int | None = None
    ) -> None:
        views, rows, classes = shape
        self._encoding = encoding_of(dtype, top, classes)
        attributes: dict[str, Any] = {"classes": classes, "top": top} if self._encoding else {}
        shape = (views, rows, self._encoding.width) if self._encoding else shape
        chunk_rows = max(1, min(chunk_rows, CHUNK_BYTES // (4 * classes)))
        self._array = _begun(path, shape, attributes) or zarr.create_array(
            path,
            shape=shape,
            chunks=(1, _even(rows, chunk_rows), shape[2]),
            dtype="uint8" if self._encoding else dtype,
            fill_value=0 if self._encoding else float("nan"),
            serializer=BytesCodec(),
            compressors=[Crc32cCodec()],
            filters=None,
            attributes=attributes,
            overwrite=True,
        )

    def write(self, view: int, start: int, logits: np.ndarray) -> None:
        """Puts logits [rows, C] of a view in their place: whole chunks."""
        rows = logits.astype(self._array.dtype) if self._encoding is None else self._encoding.encode(logits)
        self._array[view, start : start + len(rows)] = rows


def _even(rows: int, most: int) -> int:
    """Rows of a chunk where all chunks are about equal and none has more than `most`."""
    chunks = max(1, -(-rows // most))
    return max(1, -(-rows // chunks))


def _begun(path: Path, shape: tuple[int, int, int], attributes: dict[str, Any]) -> Any:
    if not path.exists():
        return None
    try:
        array = zarr.open_array(path, mode="r+")
        return array if array.shape == shape and dict(array.attrs) == attributes else None
    except (OSError, ValueError, KeyError):
        return None  # cut off while the array was being made


class Reader:
    """The logits of one member on one split: V views, N rows, C classes. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        array: Any = zarr.open_array(path, mode="r")
        self.path, self.dtype = path, array.dtype
        self.views, self.rows, self._width = array.shape
        self.classes = int(array.attrs.get("classes", self._width))
        self.encoding = encoding_of("int8", array.attrs["top"], self.classes) if "classes" in array.attrs else None
        self.chunk_rows = array.chunks[1]
        self._room = np.empty(self.chunk_rows * self._width * self.dtype.itemsize + CRC_BYTES, np.uint8)
        self._held: tuple[int, int] | None = None  # view and number of the chunk that lies there, checked

    def rows_of(self, view: int, start: int, stop: int) -> np.ndarray:
        """Rows `start` ... `stop` - 1 of a view, float32 [rows, C].

        Raises:
            ValueError: A chunk is missing, cut short, or not what was written.
        """
        out = np.empty((stop - start, self.classes), np.float32)
        self._fill(out, view, start)
        return out

    def all(self) -> np.ndarray:
        """Everything, float32 [V, N, C]; see `rows_of`."""
        out = np.empty((self.views, self.rows, self.classes), np.float32)
        for view in range(self.views):
            self._fill(out[view], view, 0)
        return out

    def is_whole(self, view: int, start: int) -> bool:
        """Whether the chunk that begins at row `start` of a view was written in full."""
        try:
            stop = min(start + self.chunk_rows, self.rows)
            return bool(np.isfinite(self.rows_of(view, start, stop)).all())
        except ValueError:
            return False

    def _fill(self, out: np.ndarray, view: int, start: int) -> None:
        stop = start + len(out)
        for number in range(start // self.chunk_rows, -(-stop // self.chunk_rows)):
            first = number * self.chunk_rows
            low, high = max(start, first), min(stop, first + self.chunk_rows)
            kept = self._chunk(view, number)[low - first : high - first]
            decoded = kept if self.encoding is None else self.encoding.decode(kept)
            torch.from_numpy(out[low - start : high - start]).copy_(torch.from_numpy(decoded))

    def _chunk(self, view: int, number: int) -> np.ndarray:
        if self._held != (view, number):
            self._held = None
            self._read(view, number)
            self._held = (view, number)
        return self._room[:-CRC_BYTES].view(self.dtype).reshape(self.chunk_rows, self._width)

    def _read(self, view: int, number: int) -> None:
        file = self.path / "c" / str(view) / str(number) / "0"
        try:
            with file.open("rb", buffering=0) as stream:
                size = stream.readinto(self._room.data)
                longer = stream.read(1)
        except OSError as error:
            raise ValueError(f"logits: cannot read {file}: {error}") from error
        if size != len(self._room) or longer:
            raise ValueError(f"logits: expected {len(self._room)} bytes in {file}, got {file.stat().st_size}")
        content, crc = self._room[:-CRC_BYTES], self._room[-CRC_BYTES:].tobytes()
        if google_crc32c.value(content) != int.from_bytes(crc, "little"):
            raise ValueError(f"logits: {file} is damaged: its CRC-32C is not that of its content")


def ahead(readers: list[Reader], block_rows: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """(view, first row, float32 [M, rows, C]) of several members, view after view in blocks of rows.

    The next block is read by a thread while the caller works on this one; there are two blocks in memory at most.
    """
    places = [(v, s) for v in range(readers[0].views) for s in range(0, readers[0].rows, block_rows)]

    def read(place: tuple[int, int]) -> np.ndarray:
        view, start = place
        stop = min(start + block_rows, readers[0].rows)
        return np.stack([reader.rows_of(view, start, stop) for reader in readers])

    with ThreadPoolExecutor(1, thread_name_prefix="logits") as pool:
        coming = pool.submit(read, places[0])
        for index, (view, start) in enumerate(places):
            block = coming.result()
            if index + 1 < len(places):
                coming = pool.submit(read, places[index + 1])
            yield view, start, block
