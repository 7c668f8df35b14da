"""Optuna's journal in a store, in which a run that is killed does no harm."""

from __future__ import annotations

import fcntl
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from distillery.store import Store

JOURNAL = "optuna.journal"
TAIL = 1 << 20  # bytes at the end of the journal in which its last line begins


def journal_of(store: Store) -> JournalStorage:
    """Optuna's storage for all studies of a store."""
    store.root.mkdir(parents=True, exist_ok=True)
    lock = _KernelLock(store.root / f"{JOURNAL}.held")
    _drop_half_a_line(store.root / JOURNAL, lock)
    return JournalStorage(JournalFileBackend(str(store.root / JOURNAL), lock))


class _KernelLock(JournalFileOpenLock):
    """A lock that the kernel drops when its holder dies; Optuna's own, of another name, outlives a killed run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def acquire(self) -> bool:
        """Waits for the lock."""
        self._stream = self._path.open("a")
        fcntl.flock(self._stream, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Gives it back."""
        self._stream.close()


def _drop_half_a_line(path: Path, lock: JournalFileOpenLock) -> None:
    """What a crash left of a line that was being written would spoil the lines after it."""
    lock.acquire()
    try:
        with path.open("ab+") as stream:
            whole = stream.tell()
            stream.seek(max(0, whole - TAIL))
            stream.truncate(whole - len(stream.read().rpartition(b"\n")[2]))
    finally:
        lock.release()
