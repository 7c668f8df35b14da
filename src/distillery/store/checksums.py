"""Checksums of files, of which those that have stayed as they were are not read again.

Beside each checksum a stamp of its file is kept: its size, the time of its last change, and its inode. While the stamp
is the same, so is the checksum. What changes bytes without the file system's knowledge (a failing disk) is found by a
full check alone, see `distillery.store.sweep`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

V = TypeVar("V")  # a JSON value

FRESH_NS = 2_000_000_000
"""A file that changed less than this ago may change again without another time of its last change."""


def checksum(path: Path) -> str:
    """Hex digest (32 characters) of the bytes of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


class Checksums:
    """Checksums of files below a folder, kept in one JSON file.

    Args:
        kept: That file; it need not be there.
        root: The folder. Files in it may be named relative to it, so that it can be renamed.
    """

    def __init__(self, kept: Path, root: Path) -> None:
        self._kept, self._root = kept, root
        self._entries = _read(kept)
        self._asked: set[str] = set()
        self._changed = False

    @classmethod
    def beside(cls, stage: Path) -> Checksums:
        """Those of a stage directory, finished or not: in ``<fingerprint>.verified`` beside it."""
        return cls(stage.with_suffix(".verified"), stage)

    def of(self, name: str) -> str:
        """The checksum of a file: the one that is kept if the file has its stamp, else computed.

        Raises:
            OSError: The file cannot be read.
        """
        return self.value(name, checksum)

    def value(self, name: str, compute: Callable[[Path], V]) -> V:
        """Anything that is computed from a file, kept likewise; of one name always the same thing.

        Raises:
            OSError: The file cannot be read.
        """
        path = self._root / name
        stamp = _stamp(path)
        self._asked.add(name)
        entry = self._entries.get(name)
        if entry is not None and entry[:3] == stamp:
            kept: V = entry[3]
            return kept

        computed = compute(path)
        if abs(time.time_ns() - stamp[1]) > FRESH_NS:
            self._note(name, stamp, computed)
        return computed

    def settle(self, name: str) -> None:
        """Computes the checksum of a file that nobody writes to any more, after its bytes were flushed to the disk."""
        path = self._root / name
        entry = self._entries.get(name)
        if entry is not None and entry[:3] == _stamp(path):
            return

        flush(path)
        # The time is set back so that it changes at the next write, however soon that is.
        was = path.stat()
        with suppress(PermissionError):  # a link to a file of somebody else
            os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns - FRESH_NS))
        self._note(name, _stamp(path), checksum(path))

    def take_over(self, name: str, other: Checksums) -> None:
        """Notes the checksum that `other` has of a file that is linked there and here under the same name."""
        entry = other._entries.get(name)
        if entry is not None:
            self._note(name, entry[:3], entry[3])

    def forget_others(self) -> None:
        """Drops files that nobody has asked for: they are there no more."""
        gone = self._entries.keys() - self._asked
        self._entries = {name: entry for name, entry in self._entries.items() if name not in gone}
        self._changed |= bool(gone)

    def save(self) -> None:
        """Writes what was noted; if that cannot be, the files are read again next time."""
        with suppress(OSError):
            if not self._changed:
                os.utime(self._kept)  # when it was last asked for
                return
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._kept.with_name(f"{self._kept.name}.{uuid.uuid4().hex[:8]}")  # others may write theirs
            try:
                temporary.write_text(json.dumps(self._entries))
                temporary.replace(self._kept)
            finally:
                temporary.unlink(missing_ok=True)
            self._changed = False

    def _note(self, name: str, stamp: list[int], found: object) -> None:
        self._entries[name] = [*stamp, found]
        self._changed = True


def flush(path: Path) -> None:
    """Has the system write a file, or the names in a folder, to the disk: what follows finds it after a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _read(kept: Path) -> dict[str, list[Any]]:
    """What is kept, as far as it can be read; a stamp and a checksum for each name."""
    try:
        tree = json.loads(kept.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(tree, dict):
        return {}
    return {name: entry for name, entry in tree.items() if isinstance(entry, list) and len(entry) == 4}


_current: ContextVar[Checksums | None] = ContextVar("checksums", default=None)


@contextmanager
def kept_in(path: Path) -> Iterator[None]:
    """Within the block, `remembered` keeps its checksums in this file; those that it was not asked for are dropped."""
    checksums = Checksums(path, Path("/"))
    token = _current.set(checksums)
    try:
        yield
        checksums.forget_others()
    finally:
        _current.reset(token)
        checksums.save()


def remembered(file: Path, compute: Callable[[Path], V]) -> V:
    """``compute(file)``, a JSON value: not computed where it is known from an earlier time, see `kept_in`."""
    checksums = _current.get()
    if checksums is None or not file.exists():
        return compute(file)
    return checksums.value(str(file.absolute()), compute)
