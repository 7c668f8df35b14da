"""How much a process keeps in memory, and how much it takes up at once. It changes results by rounding alone."""

from __future__ import annotations

import ctypes
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

# torch is imported by what asks a GPU: the store needs none of it, and its processes start three seconds sooner.

VARIABLE = "DISTILLERY_MEMORY_MB"
DEFAULT_MB = 512
KEPT_SHARE = 8
"""A GPU keeps at most one part in so many of its free memory, of each of the things that it may keep."""

WORKING_BYTES = 256 << 20
"""Of what a network makes of a batch that is predicted on a CPU. Larger batches are not faster there."""

WORKING_SHARE = 4
"""On a GPU, likewise: at most one part in so many of the free memory."""

BLOCK_BYTES = 64 << 20
"""Of encoded rows that are read at once from the memory map."""


def resident_bytes(device: str = "cpu") -> int:
    """Training inputs, validation inputs on a GPU, and an ensemble's logits, up to this size are kept there, each.

    Larger ones are read by the batch. From the environment, so that worker processes know it, too; where that says
    nothing, a GPU keeps as much as an eighth of its free memory.
    """
    from distillery.devices import is_cuda

    named = os.environ.get(VARIABLE)
    if named is None and is_cuda(device):
        return free_on_gpu(device) // KEPT_SHARE
    return int(named or DEFAULT_MB) << 20


def working_bytes(device: str) -> int:
    """What the largest call of a network may take and give while it predicts a batch."""
    from distillery.devices import is_cuda

    return free_on_gpu(device) // WORKING_SHARE if is_cuda(device) else WORKING_BYTES


def free_on_gpu(device: str) -> int:
    """Bytes that a GPU has left for this process, with what torch holds for its next tensors."""
    import torch

    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def blocks(count: int, row_bytes: int, most: int | None = None) -> Iterator[slice]:
    """Slices of `count` rows that are read at once: at most `BLOCK_BYTES`, at least one row."""
    size = max(1, BLOCK_BYTES // max(1, row_bytes))
    size = size if most is None else min(size, most)
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def room(shape: tuple[int, ...], dtype: npt.DTypeLike, folder: Path | None = None) -> np.ndarray:
    """An array to be filled; one of more than `resident_bytes` lies in a file that is gone with the process.

    Args:
        shape: Of the array.
        dtype: Of its numbers.
        folder: Where the file lies; None for the system's folder of temporary files.
    """
    if math.prod(shape) * np.dtype(dtype).itemsize <= resident_bytes():
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=folder) as stream:
        return np.memmap(stream, dtype, shape=shape)


def trim_heap() -> None:
    """Returns memory that was freed to the system: glibc keeps what lay in pieces, gigabytes after a large stage."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
