"""How much of what is read again and again a process keeps in memory. It changes no result."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

VARIABLE = "DISTILLERY_MEMORY_MB"
DEFAULT_MB = 512


def resident_bytes() -> int:
    """Training inputs, and an ensemble's logits, up to this size are kept in memory (or on the device), each.

    Larger ones are read by the batch. From the environment, so that worker processes know it, too.
    """
    return int(os.environ.get(VARIABLE, DEFAULT_MB)) << 20


def give_back() -> None:
    """Returns memory that was freed to the system: glibc keeps what lay in pieces, gigabytes after a large stage."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
