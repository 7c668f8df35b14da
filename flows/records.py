"""Which stages each run used, and whether it is still at work.

A file for each run, ``runs/<name>/stages/<id>.txt``, has a line for each stage and one more when the run has ended
well. The run holds the kernel's lock on it, which is dropped when its process dies: on this machine or on another that
shares the folder, before or after a restart, and whatever process has its number then.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from distillery.store import Handle
from flows.kernel_lock import taken

ENDED = "ended"


class Record:
    """The file of one run, while this process holds it."""

    def __init__(self, stream: IO[Any]) -> None:
        self._stream = stream

    def add(self, handles: Iterable[Handle]) -> None:
        """Notes stages. May be called by several threads."""
        for handle in handles:
            self._write(f"{handle.stage}/{handle.fingerprint}")

    @contextmanager
    def held(self) -> Iterator[Record]:
        """Within the block the run is at work; if the block ends well, so has the run."""
        with self._stream:
            yield self
            self._write(ENDED)

    def _write(self, line: str) -> None:
        os.write(self._stream.fileno(), f"{line}\n".encode())  # one call, at the end: no two lines are mixed


def file_of(runs: Path, name: str, run_id: str) -> Path:
    """Where the stages of a run are noted."""
    return runs / name / "stages" / f"{run_id}.txt"


def begin(file: Path) -> Record:
    """The record of a run that begins."""
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = file.open("ab", buffering=0)
    fcntl.flock(stream, fcntl.LOCK_EX)
    return Record(stream)


def take_over(file: Path) -> Record | None:
    """The record of a run whose process has died; None if it lives, or keeps its records elsewhere."""
    if not file.exists():
        return None
    stream = file.open("ab", buffering=0)
    if taken(stream):
        return Record(stream)
    stream.close()
    return None


@dataclass(frozen=True)
class Noted:
    """What is known of a run.

    Attributes:
        file: Its record.
        stages: Each as ``stage/fingerprint``.
        ended: Whether it has ended well.
        at_work: Whether its process lives.
    """

    file: Path
    stages: frozenset[str]
    ended: bool
    at_work: bool


def noted(folder: Path) -> list[Noted]:
    """All runs of an experiment, given its folder of reports, the latest last."""
    files = sorted((folder / "stages").glob("*.txt"), key=lambda file: file.stat().st_mtime)
    return [_read(file) for file in files]


def _read(file: Path) -> Noted:
    with file.open("r+b") as stream:
        at_work = not taken(stream)
        lines = stream.read().decode(errors="replace").splitlines()
    ended = bool(lines) and lines[-1] == ENDED
    return Noted(file, frozenset(lines) - {ENDED}, ended, at_work)
