"""Who decides, when, and from which state of the project."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
from datetime import UTC, datetime


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def who() -> str:
    """user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number alone
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def commit() -> str | None:
    """Git commit of the current folder, with `-dirty` after it if tracked files were changed; None without one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
