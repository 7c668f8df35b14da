"""Logits on disk: exact, checked, and read by parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from distillery.stages.logits import logit_store
from distillery.stages.logits.logit_store import Reader, Writer, ahead

SHAPE = (3, 50, 4)
CONTENT = np.random.default_rng(0).normal(size=SHAPE)


def kept(folder: Path, dtype: str = "float16", chunk_rows: int = 16, content: np.ndarray = CONTENT) -> Path:
    """An array on disk."""
    path = folder / f"{dtype}-{chunk_rows}.zarr"
    fill(Writer(path, SHAPE, dtype, chunk_rows), content, Reader(path).chunk_rows)
    return path


def fill(writer: Writer, content: np.ndarray, chunk_rows: int) -> None:
    """Writes all rows chunk by chunk."""
    for view, rows in enumerate(content):
        for start in range(0, len(rows), chunk_rows):
            writer.write(view, start, rows[start : start + chunk_rows])


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """Arrays of both types, in chunks that fit the rows, that do not, and that hold them all."""
    folder = tmp_path_factory.mktemp("logits")
    return {(d, n): kept(folder, d, n) for d in ("float16", "float32") for n in (1, 10, 16, 64)}


@given(view=st.integers(0, 2), ends=st.tuples(st.integers(0, 50), st.integers(0, 50)))
def test_any_rows_are_what_zarr_reads(paths: dict[tuple[str, int], Path], view: int, ends: tuple[int, int]) -> None:
    """reference: zarr itself, made float32."""
    start, stop = sorted(ends)
    for path in paths.values():
        expected = zarr.open_array(path, mode="r")[:].astype(np.float32)
        assert np.array_equal(Reader(path).rows_of(view, start, stop), expected[view, start:stop])
        assert np.array_equal(Reader(path).all(), expected)


@pytest.mark.parametrize("block_rows", [1, 7, 16, 50, 1000])
def test_reading_ahead_gives_every_row_of_every_member_once(tmp_path: Path, block_rows: int) -> None:
    """reference: the members' arrays side by side; their chunks need not be of one size."""
    contents = [CONTENT, CONTENT + 1]
    readers = [Reader(kept(tmp_path, "float32", n, content)) for n, content in zip((16, 10), contents, strict=True)]
    found = np.full((2, *SHAPE), np.nan, np.float32)
    for view, start, block in ahead(readers, block_rows):
        assert block.shape[1] <= block_rows and np.isnan(found[:, view, start : start + block.shape[1]]).all()
        found[:, view, start : start + block.shape[1]] = block
    assert np.array_equal(found, np.stack(contents).astype(np.float32))


def cut(chunk: Path, size: int) -> None:
    """Leaves the first bytes, or adds some."""
    content = chunk.read_bytes()
    chunk.write_bytes((content + b"\0" * 9)[: len(content) + size])


def flip(chunk: Path, place: int) -> None:
    """Changes one bit."""
    content = bytearray(chunk.read_bytes())
    content[place] ^= 1
    chunk.write_bytes(bytes(content))


DAMAGE: dict[str, tuple[Any, str]] = {
    "flipped in the content": (lambda chunk: flip(chunk, 5), "is damaged: its CRC-32C"),
    "flipped in the sum": (lambda chunk: flip(chunk, -1), "is damaged: its CRC-32C"),
    "shorter": (lambda chunk: cut(chunk, -3), "expected 108 bytes in .*, got 105"),
    "longer": (lambda chunk: cut(chunk, 2), "expected 108 bytes in .*, got 110"),
    "gone": (Path.unlink, "cannot read .*No such file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(("view", "number"), [(0, 0), (1, 2), (2, 3)])
def test_a_damaged_chunk_is_told_and_the_others_are_read(tmp_path: Path, damage: str, view: int, number: int) -> None:
    """contract: an error that names the file, also while reading ahead; rows of other chunks come as they were."""
    change, message = DAMAGE[damage]
    path = kept(tmp_path)
    change(path / "c" / str(view) / str(number) / "0")
    reader = Reader(path)
    with pytest.raises(ValueError, match=message):
        reader.all()
    with pytest.raises(ValueError, match=f"{view}/{number}/0"):
        list(ahead([reader], 20))
    whole = [(v, n) for v in range(3) for n in range(4) if reader.is_whole(v, 13 * n)]
    assert len(whole) == 11 and (view, number) not in whole
    for v, n in whole:
        rows = slice(13 * n, min(50, 13 * n + 13))
        assert np.array_equal(reader.rows_of(v, rows.start, rows.stop), CONTENT[v, rows].astype(np.float16))


@pytest.mark.parametrize("rows", [1, 999, 1001, 1900, 4000])
def test_an_array_is_hardly_larger_than_its_numbers(tmp_path: Path, rows: int) -> None:
    """property: four bytes for each chunk; chunks of equal size leave at most a row each empty."""
    content = np.zeros((2, rows, 10), np.float16)
    writer = Writer(tmp_path / "a.zarr", (2, rows, 10), "float16", 1000)
    each = Reader(tmp_path / "a.zarr").chunk_rows
    fill(writer, content, each)
    size = sum(f.stat().st_size for f in (tmp_path / "a.zarr" / "c").rglob("*") if f.is_file())
    chunks = 2 * -(-rows // 1000)
    assert content.nbytes <= size <= content.nbytes + chunks * (4 + 20)
    assert each <= 1000


def test_of_many_classes_fewer_rows_are_in_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """golden: 50 rows of 4 classes in chunks of at most 160 bytes as float32: five of ten rows, the same content."""
    monkeypatch.setattr(logit_store, "CHUNK_BYTES", 160)
    reader = Reader(kept(tmp_path, "float32", 64))
    assert reader.chunk_rows == 10
    assert np.array_equal(reader.all(), CONTENT.astype(np.float32))


def test_rows_of_one_chunk_are_read_at_once(tmp_path: Path) -> None:
    """property: without its file, rows of the chunk that was read last are still there, those of others are not."""
    path = kept(tmp_path, "float32", 16)
    reader = Reader(path)
    first = reader.rows_of(1, 0, 3)
    for chunk in (path / "c" / "1").glob("*/0"):
        chunk.unlink()
    assert np.array_equal(reader.rows_of(1, 0, 3), first)
    assert np.array_equal(reader.rows_of(1, 2, 5), CONTENT[1, 2:5].astype(np.float32))
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot read"):
            reader.rows_of(1, 40, 41)
    with pytest.raises(ValueError, match="cannot read"):
        reader.rows_of(1, 0, 3)
