"""Which stages each run used, and whether it is still at work.

A file for each run, ``runs/<name>/stages/<id>.txt``, says when it began, has a line for each stage, and one more when
the run has ended well. The run holds the kernel's lock on it, which is dropped when its process dies: on this machine
or on another that shares the folder, before or after a restart, and whatever process has its number then.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from distillery.store import Handle
from distillery.store.kernel_lock import try_lock

BEGAN, ENDED = "began", "ended"


class Record:
    """The file of one run, while this process holds it."""

    def __init__(self, stream: FileIO) -> None:
        self._stream = stream

    def add(self, handles: Iterable[Handle]) -> None:
        """Notes stages. May be called by several threads."""
        for handle in handles:
            self.write(f"{handle.stage}/{handle.fingerprint}")

    @contextmanager
    def held(self) -> Iterator[Record]:
        """Within the block the run is at work; if the block ends well, so has the run."""
        with self._stream:
            yield self
            self.write(ENDED)

    def write(self, line: str) -> None:
        """Adds a line."""
        os.write(self._stream.fileno(), f"{line}\n".encode())  # one call, at the end: no two lines are mixed


def file_of(runs: Path, name: str, run_id: str) -> Path:
    """Where the stages of a run are noted."""
    return runs / name / "stages" / f"{run_id}.txt"


def begin(file: Path) -> Record:
    """The record of a run that begins."""
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = file.open("ab", buffering=0)
    fcntl.flock(stream, fcntl.LOCK_EX)
    record = Record(stream)
    record.write(f"{BEGAN} {int(time.time())}")
    return record


def take_over(file: Path) -> Record | None:
    """The record of a run whose process has died; None if it lives, or keeps its records elsewhere."""
    if not file.exists():
        return None
    stream = file.open("ab", buffering=0)
    if try_lock(stream):
        return Record(stream)
    stream.close()
    return None


@dataclass(frozen=True)
class Noted:
    """What is known of a run.

    Attributes:
        file: Its record.
        began: When, in seconds since 1970.
        stages: Each as ``stage/fingerprint``.
        ended: Whether it has ended well.
        at_work: Whether its process lives.
    """

    file: Path
    began: float
    stages: frozenset[str]
    ended: bool
    at_work: bool


def noted(folder: Path) -> list[Noted]:
    """All runs of an experiment, given its folder of reports, the latest last."""
    files = sorted((folder / "stages").glob("*.txt"), key=lambda file: file.stat().st_mtime)
    return [_read(file) for file in files]


def _read(file: Path) -> Noted:
    with file.open("r+b") as stream:
        at_work = not try_lock(stream)
        lines = stream.read().decode(errors="replace").splitlines()
    begun = [line.partition(" ")[2] for line in lines if line.startswith(BEGAN)]
    began = float(begun[0]) if begun and begun[0].isdecimal() else file.stat().st_mtime
    stages = frozenset(line for line in lines if "/" in line)
    return Noted(file, began, stages, lines[-1:] == [ENDED], at_work)
