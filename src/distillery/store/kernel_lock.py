"""Locks of the kernel on open files, which it drops when their holder dies."""

from __future__ import annotations

import fcntl
from typing import IO, Any


def taken(stream: IO[Any]) -> bool:
    """Takes the lock if nobody has it; whether it was taken."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
