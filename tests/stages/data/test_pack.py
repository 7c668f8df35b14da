"""The pack: exact, continued after a kill, and never half trusted."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillery.errors import InputError
from distillery.sources import Rows
from distillery.stages.data import pack as stage
from distillery.stages.data.pack import JOURNAL

NAME, NOTES = "inputs.npy", f"inputs{JOURNAL}"
COUNT, BROKEN, CHUNK = 23, (4, 11), 5
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 3, 4, 4), np.uint8)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five chunks, the last of three rows."""
    monkeypatch.setattr(stage, "CHUNK_ROWS", CHUNK)


def images(on_error: Any = "stop") -> Rows:
    """A source whose rows are not read, as the encoder is given."""
    return Rows("image", np.zeros(COUNT), "d", read=PIXELS.__getitem__, on_error=on_error)


def pack(folder: Path, rows: Rows, encode: Any, ids: np.ndarray | None = None) -> np.ndarray:
    """All rows, or some of them, in that order."""
    return stage.pack(folder / NAME, rows, np.arange(len(rows)) if ids is None else ids, encode)


def encoder(asked: list[int], broken: tuple[int, ...] = (), killed_at: int = -1) -> Callable[[np.ndarray], np.ndarray]:
    """Notes what it is asked for; some rows cannot be read, and at one it is interrupted."""

    def encode(ids: np.ndarray) -> np.ndarray:
        row = int(ids[0])
        if row == killed_at:
            raise KeyboardInterrupt
        asked.append(row)
        if row in broken:
            raise InputError(f"cannot read row {row}")
        return PIXELS[ids].astype(np.float32)

    return encode


def packed(folder: Path) -> np.ndarray:
    """What lies on disk."""
    return np.load(folder / NAME)


@pytest.mark.parametrize("killed_at", [1, 5, 12, 22])
def test_a_killed_run_goes_on_with_what_is_whole(tmp_path: Path, killed_at: int) -> None:
    """resume: rows of finished chunks are not read again, and the result is that of one run."""
    with pytest.raises(KeyboardInterrupt):
        pack(tmp_path, images("skip"), encoder([], BROKEN, killed_at))
    asked: list[int] = []
    usable = pack(tmp_path, images("skip"), encoder(asked, BROKEN))
    assert asked == list(range(killed_at // CHUNK * CHUNK, COUNT))
    expected = PIXELS.copy()
    expected[list(BROKEN)] = 0
    assert np.array_equal(packed(tmp_path), expected) and packed(tmp_path).dtype == np.uint8
    assert np.flatnonzero(~usable).tolist() == list(BROKEN)


@pytest.mark.parametrize("number", range(5))
def test_a_damaged_chunk_is_made_again_alone(tmp_path: Path, number: int) -> None:
    """resume: one bit in the last row of a chunk, and its rows are read again, the others not."""
    pack(tmp_path, images(), encoder([]))
    last = min(number * CHUNK + CHUNK, COUNT) - 1
    damaged = np.load(tmp_path / NAME, mmap_mode="r+")
    damaged[last, 2, 3, 3] ^= 1
    damaged.flush()
    asked: list[int] = []
    pack(tmp_path, images(), encoder(asked))
    assert asked == list(range(number * CHUNK, last + 1)) and np.array_equal(packed(tmp_path), PIXELS)


def cut_array(folder: Path) -> None:
    """Half an array."""
    content = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(content[: len(content) // 2])


LEFT: dict[str, tuple[Callable[[Path], Any], list[int]]] = {
    "no array": (lambda f: (f / NAME).unlink(), list(range(COUNT))),
    "half an array": (cut_array, list(range(COUNT))),
    "no journal": (lambda f: (f / NOTES).unlink(), list(range(COUNT))),
    "an empty journal": (lambda f: (f / NOTES).write_text(""), list(range(COUNT))),
    "half a line": (lambda f: (f / NOTES).write_text((f / NOTES).read_text()[:-9]), [20, 21, 22]),
}


@pytest.mark.parametrize("left", LEFT)
def test_nothing_half_written_is_trusted(tmp_path: Path, left: str) -> None:
    """resume: whatever is missing or cut off, the rows that it stood for are read again."""
    damage, again = LEFT[left]
    pack(tmp_path, images(), encoder([]))
    damage(tmp_path)
    asked: list[int] = []
    pack(tmp_path, images(), encoder(asked))
    assert sorted(set(asked)) == again and np.array_equal(packed(tmp_path), PIXELS)


def test_chunks_of_other_rows_are_not_taken(tmp_path: Path) -> None:
    """resume: a killed run had begun the array with other rows; only chunks that hold the same ones are kept."""
    ids = np.arange(COUNT)[::-1].copy()
    pack(tmp_path, images(), encoder([]), ids)
    ids[[5, 6]] = ids[[6, 5]]
    asked: list[int] = []
    usable = pack(tmp_path, images("skip"), encoder(asked, (int(ids[9]),)), ids)
    assert asked == ids[5:10].tolist() and np.flatnonzero(~usable).tolist() == [9]
    expected = PIXELS[ids]
    expected[9] = 0
    assert np.array_equal(packed(tmp_path), expected)


def test_a_disk_without_room_is_told_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """contract: the error names the folder and the bytes; afterwards, with room, the run begins and ends well."""

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    asked: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match=rf"inputs\.npy needs {PIXELS.nbytes + 128:,} bytes") as told:
            pack(tmp_path, images(), encoder(asked))
    assert told.value.errno == errno.ENOSPC and str(tmp_path) in str(told.value) and asked == [0]
    pack(tmp_path, images(), encoder(asked))
    assert np.array_equal(packed(tmp_path), PIXELS)


def test_a_disk_that_fills_up_on_the_way_loses_no_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: where no room can be reserved the write tells the same; whole chunks are kept."""
    write = stage._Begun.write

    def full(self: Any, start: int, *rest: np.ndarray) -> None:
        if start == 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, start, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(stage._Begun, "write", full)
        with pytest.raises(OSError, match=r"inputs.npy needs .* bytes"):
            pack(tmp_path, images(), encoder([]))
    asked: list[int] = []
    pack(tmp_path, images(), encoder(asked))
    assert asked == list(range(10, COUNT)) and np.array_equal(packed(tmp_path), PIXELS)


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    """contract: the first one stops the run and says how to go on without it; if none can be read, that is told."""
    with pytest.raises(InputError, match=r"cannot read row 4; set data\.on_error to skip"):
        pack(tmp_path, images(), encoder([], BROKEN))
    with pytest.raises(InputError, match="expected readable rows, got none"):
        pack(tmp_path / "..", images("skip"), encoder([], tuple(range(COUNT))))
