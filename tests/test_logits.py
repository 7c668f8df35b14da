"""Stage `logits`: raw, in order, and continued chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from distillery import logits as stage
from distillery.config import Logits, Recipe, Teacher
from distillery.logits import cache_logits, read_logits
from distillery.store import Handle, Store
from distillery.teachers import load_member, train_teacher

CHUNKS = Logits(dtype="float32", chunk_rows=64)  # five chunks of the 300 test rows


def given_member(array: np.ndarray, folder: Path, chain: SimpleNamespace, store: Store) -> Handle:
    """A member with these logits for the source's rows."""
    np.savez(folder / "given.npz", logits=array)
    teacher = Teacher(name="given", family="given", path=str(folder / "given.npz"))
    return train_teacher("given", teacher, Recipe(), 0, chain.data, store)


@pytest.mark.parametrize("split", ["train", "val_ensemble", "val_search", "test"])
def test_logits_follow_the_rows_of_the_split(chain: SimpleNamespace, split: str) -> None:
    """reference: the member asked directly, row by row of the split, within half precision."""
    for member, handle in zip(chain.members, chain.logits[split], strict=True):
        rows = chain.dataset.splits[split]
        expected = load_member(member, chain.dataset.spec).logits(chain.dataset.inputs[rows], rows)
        found = read_logits(handle)
        assert found.dtype == np.float32 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=2**-11, atol=2**-24)


def test_each_row_keeps_its_place(chain: SimpleNamespace, store: Store, tmp_path: Path) -> None:
    """golden: logits that are the row's number come back as the numbers of the split's rows, exactly."""
    numbers = np.arange(900, dtype=np.float32)[:, None] * [1, -1, 0]
    member = given_member(numbers, tmp_path, chain, store)
    found = read_logits(cache_logits(member, "test", chain.data, CHUNKS, store))
    assert np.array_equal(found, numbers[chain.dataset.splits["test"]])


def test_single_precision_is_exact(chain: SimpleNamespace, store: Store) -> None:
    """property: float32 keeps every bit, half precision half the bytes; each is a stage of its own."""
    handles = {
        d: cache_logits(chain.members[0], "test", chain.data, Logits(dtype=d), store) for d in ("float16", "float32")
    }
    rows = chain.dataset.splits["test"]
    expected = load_member(chain.members[0], chain.dataset.spec).logits(chain.dataset.inputs[rows], rows)
    assert np.array_equal(read_logits(handles["float32"]), expected)
    assert np.array_equal(read_logits(handles["float16"]), expected.astype(np.float16).astype(np.float32))
    sizes = [h.file("logits.zarr/c/0/0/0").stat().st_size for h in handles.values()]
    assert sizes == [300 * 3 * 2 + 4, 300 * 3 * 4 + 4]  # four bytes for the CRC


def flip_a_byte(chunk: Path) -> None:
    """Damages the middle of a chunk."""
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "gone": Path.unlink,
    "flipped": flip_a_byte,
    "cut short": lambda chunk: chunk.write_bytes(chunk.read_bytes()[:-9]),
    "empty": lambda chunk: chunk.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_only_the_damaged_chunk_is_computed_again(chain: SimpleNamespace, store: Store, damage: str) -> None:
    """resume: of what a killed run left behind, whole chunks are kept and others computed, with the same result."""
    first = cache_logits(chain.members[0], "test", chain.data, CHUNKS, store)
    assert first.metrics == {"rows": 300, "rows_computed": 300}
    expected = read_logits(first)
    left = Path(first.path).rename(Path(first.path).with_suffix(".part"))
    DAMAGE[damage](left / "logits.zarr" / "c" / "0" / "1" / "0")
    again = cache_logits(chain.members[0], "test", chain.data, CHUNKS, store)
    assert again.metrics == {"rows": 300, "rows_computed": 64}
    assert np.array_equal(read_logits(again), expected)


def test_a_run_killed_between_chunks_goes_on(
    chain: SimpleNamespace, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """resume: two chunks written before the interrupt are not asked for again."""
    asked: list[np.ndarray] = []

    class Interrupted:
        def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
            asked.append(rows)
            if len(asked) == 3:
                raise KeyboardInterrupt
            return np.stack([rows] * 3, axis=1).astype(np.float32)

    monkeypatch.setattr(stage, "load_member", lambda *_: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        cache_logits(chain.members[0], "test", chain.data, CHUNKS, store)
    handle = cache_logits(chain.members[0], "test", chain.data, CHUNKS, store)
    assert handle.metrics["rows_computed"] == 300 - 2 * 64
    rows = chain.dataset.splits["test"]
    assert np.array_equal(read_logits(handle), np.stack([rows] * 3, axis=1))
    assert np.array_equal(np.concatenate([*asked[:2], *asked[3:]]), rows)


def test_logits_that_are_no_numbers_are_told(
    chain: SimpleNamespace, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """contract: the error names the member and the row of the source."""
    broken = int(chain.dataset.splits["test"][7])

    class Broken:
        def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
            return np.where(rows[:, None] == broken, np.nan, np.zeros((len(rows), 3)))

    monkeypatch.setattr(stage, "load_member", lambda *_: Broken())
    with pytest.raises(FloatingPointError, match=f"member 'mlp-00': logits of row {broken} are not finite"):
        cache_logits(chain.members[0], "test", chain.data, CHUNKS, store)
