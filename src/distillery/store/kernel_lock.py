"""Locks of the kernel on open files, which it drops when their holder dies."""

from __future__ import annotations

import fcntl
from typing import IO


def try_lock(stream: IO[str] | IO[bytes]) -> bool:
    """Tries to lock without waiting; returns whether it succeeded."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
