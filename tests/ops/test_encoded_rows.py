"""Rows in several files, indexed like one array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distillery.ops.encoded_rows import INDEX, Index, Packed, open_inputs

GENERATOR = np.random.default_rng(0)
ARRAYS = [GENERATOR.integers(0, 256, (count, 3, 2, 2), np.uint8) for count in (4, 30, 7)]
PART = GENERATOR.integers(0, 3, 50).astype(np.int32)
PLACE = np.array([GENERATOR.integers(len(ARRAYS[part])) for part in PART])
WHOLE = np.stack([ARRAYS[part][place] for part, place in zip(PART, PLACE, strict=True)])

KEYS = {
    "a number": 7,
    "a number from the end": np.int64(-1),
    "numbers": GENERATOR.integers(-50, 50, 64),
    "a list": [3],
    "a slice": slice(2, 40, 3),
    "all": slice(None),
    "a mask": PART == 1,
    "of the largest part": np.flatnonzero(PART == 1),
    "of the smallest part": np.flatnonzero(PART == 0),
    "none": np.empty(0, np.int64),
}


@pytest.mark.parametrize("key", KEYS)
def test_rows_are_those_of_one_array(key: str) -> None:
    """reference: numpy's own indexing of the rows in one array, and the numbers that describe it."""
    packed = Packed(ARRAYS, PART, PLACE)
    found = packed[KEYS[key]]
    assert np.array_equal(found, WHOLE[KEYS[key]]) and found.shape == WHOLE[KEYS[key]].shape
    assert found.dtype == packed.dtype == WHOLE.dtype
    assert packed.shape == WHOLE.shape and len(packed) == len(WHOLE)
    assert np.array_equal(np.asarray(packed), WHOLE) and np.asarray(packed, np.float32).dtype == np.float32
    with pytest.raises(IndexError):
        packed[50]


def test_an_index_is_kept_and_names_files_of_its_folder_alone(tmp_path: Path) -> None:
    """contract: what is saved is loaded; half a file, or a name that leaves the folder, is refused."""
    (tmp_path / "inputs").mkdir()
    names = ["a.npy", "b.npy", "again-b.npy"]
    for name, array in zip(names, ARRAYS, strict=True):
        np.save(tmp_path / "inputs" / name, array)
    hashes = np.arange(50, dtype=np.uint64)
    index = Index("graph", hashes, names, PART, PLACE, np.ones(50, bool))
    index.save(tmp_path)
    assert np.array_equal(np.asarray(open_inputs(tmp_path)), WHOLE)
    assert Index.load(tmp_path).graph == "graph" and Index.load(tmp_path).parts == names

    Index("graph", hashes, ["../../a.npy"], PART, PLACE, np.ones(50, bool)).save(tmp_path)
    with pytest.raises(ValueError, match=r"expected names of files, got \.\./\.\./a\.npy"):
        Index.load(tmp_path)
    (tmp_path / INDEX).write_bytes((tmp_path / INDEX).read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        Index.load(tmp_path)


def test_rows_are_found_by_their_content() -> None:
    """reference: a dictionary; rows that could not be read are not found."""
    hashes = np.array([5, 1, 9, 1, 7], np.uint64)
    usable = np.array([True, True, True, True, False])
    index = Index("graph", hashes, [], np.zeros(5, np.int32), np.arange(5), usable)
    assert index.rows_of(np.array([9, 7, 1, 0, 2**63], np.uint64)).tolist() == [2, -1, 1, -1, -1]
    assert Index("graph", hashes[:0], [], PART, PLACE, usable).rows_of(hashes).tolist() == [-1] * 5
