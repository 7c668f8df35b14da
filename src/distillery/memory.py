"""How much of what is read again and again a process keeps in memory. It changes no result."""

from __future__ import annotations

import ctypes
import math
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

VARIABLE = "DISTILLERY_MEMORY_MB"
DEFAULT_MB = 512


def resident_bytes() -> int:
    """Training inputs, and an ensemble's logits, up to this size are kept in memory (or on the device), each.

    Larger ones are read by the batch. From the environment, so that worker processes know it, too.
    """
    return int(os.environ.get(VARIABLE, DEFAULT_MB)) << 20


def room(shape: tuple[int, ...], dtype: type[np.number[Any]], folder: Path | None = None) -> np.ndarray:
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


def give_back() -> None:
    """Returns memory that was freed to the system: glibc keeps what lay in pieces, gigabytes after a large stage."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
