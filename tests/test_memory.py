"""How much is kept in memory, and how much is read at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretended_cuda import pretended_cuda

from distillery import memory
from distillery.stages.teachers.members import logits_of


@pytest.mark.parametrize(("text", "device", "expected"), [
    (None, "cpu", 512 << 20), ("7", "cpu", 7 << 20), ("7", "cuda", 7 << 20), ("0", "cuda", 0), (None, "cuda", 10 << 30),
])  # fmt: skip
def test_what_is_kept(text: str | None, device: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """golden: what the environment says, else 512 MB, and an eighth of what a GPU has free."""
    monkeypatch.delenv(memory.VARIABLE, raising=False)
    if text is not None:
        monkeypatch.setenv(memory.VARIABLE, text)
    with pretended_cuda(free_bytes=80 << 30):
        assert memory.resident_bytes(device) == expected


def test_what_a_batch_may_take() -> None:
    """golden: of a GPU a quarter of what is free."""
    with pretended_cuda(free_bytes=80 << 30):
        assert memory.working_bytes("cuda") == 20 << 30
        assert memory.working_bytes("cpu") == memory.WORKING_BYTES


@given(st.integers(0, 300), st.integers(0, memory.BLOCK_BYTES), st.none() | st.integers(1, 50))
def test_blocks_cover_all_rows_once(count: int, row_bytes: int, most: int | None) -> None:
    """property: in order, none larger than allowed but for single rows."""
    found = list(memory.blocks(count, row_bytes, most))
    assert [row for part in found for row in range(count)[part]] == list(range(count))
    for part in found:
        size = part.stop - part.start
        assert 1 <= size <= (most or count)
        assert size == 1 or size * row_bytes <= memory.BLOCK_BYTES


def test_a_member_is_asked_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: the same answers in one go; it is given no more rows at once than fit a block."""
    source = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.save(tmp_path / "inputs.npy", source)
    asked: list[int] = []

    class Twice:
        """A member whose logits are twice its inputs, and its rows beside them."""

        def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
            """The logits."""
            asked.append(len(inputs))
            return np.column_stack([2 * inputs, rows]).astype(np.float32)

    rows = np.arange(49, 0, -2)
    monkeypatch.setattr(memory, "BLOCK_BYTES", 7 * 16)
    found = logits_of(Twice(), np.load(tmp_path / "inputs.npy", mmap_mode="r"), rows)
    assert np.array_equal(found, np.column_stack([2 * source[rows], rows]).astype(np.float32))
    assert asked == [7, 7, 7, 4]
