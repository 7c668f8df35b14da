"""Removing from a store what nobody needs any more, and reading all that is left.

Beside a stage directory ``<fingerprint>`` lie its lock, its stamps (``.verified``), and perhaps what a run has begun
(``.part``) or was fetching (``.fetched``). What was used a short time ago stays, and so does what somebody has locked.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from distillery.store import is_at
from distillery.store.manifest import damaged_file

FINGERPRINT = re.compile(r"[0-9a-f]{24}")
UNFINISHED = (".part", ".fetched")
SOURCES = "checksums"  # the folder of what is known of files outside the store
DAY = 86_400.0  # seconds


@dataclass
class Swept:
    """What became of one kind of stage.

    Attributes:
        kind: The stage's name.
        found: Finished stages that there were.
        removed: Those of them that went, or would go.
        leftovers: What unfinished builds had left and went.
        bytes: What is freed. A file that other stages link is not, until the last of them goes.
    """

    kind: str
    found: int = 0
    removed: int = 0
    leftovers: int = 0
    bytes: int = 0
    _links: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    def count(self, path: Path) -> None:
        """Adds what goes."""
        if path.suffix in UNFINISHED:
            self.leftovers += 1
        elif not path.suffix:
            self.removed += 1
        for file in (path, *path.rglob("*")):
            status = file.lstat()
            left = self._links.get(status.st_ino, status.st_nlink) - 1
            self._links[status.st_ino] = left
            if left == 0:
                self.bytes += status.st_size


def sweep(root: Path, needed: Collection[str], *, since: float | None = None, dry_run: bool = False) -> list[Swept]:
    """Removes from a store all stages that are not needed; what went, for each kind of stage.

    Args:
        root: The store. Nothing outside of it is touched, and no symbolic link is followed.
        needed: The stages to keep, each as ``stage/fingerprint``.
        since: What was used after this time, in seconds since 1970, stays, too; what was used within a day in any case.
        dry_run: Remove nothing.
    """
    day_ago = time.time() - DAY
    oldest = day_ago if since is None else min(since, day_ago)
    swept = [_sweep_kind(folder, needed, oldest, dry_run) for folder in _kinds(root)]
    for kept in (root / SOURCES).glob("*.json"):
        if not dry_run and not _used_since([kept], day_ago - 30 * DAY):
            kept.unlink(missing_ok=True)
    return swept


def damaged(root: Path) -> Iterator[Path]:
    """Reads every file of every finished stage, and gives the stages that are not as they were sealed.

    Files of sources are read again by the next run, too.
    """
    for kept in (root / SOURCES).glob("*.json"):
        kept.unlink(missing_ok=True)
    for folder in _kinds(root):
        for name, paths in _stages(folder).items():
            if folder / name in paths and damaged_file(folder / name) is not None:
                yield folder / name


def _kinds(root: Path) -> list[Path]:
    """The folders of a store that hold stages."""
    if not root.is_dir():
        return []
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.is_symlink()]
    return [folder for folder in folders if folder.name != SOURCES and _stages(folder)]


def _stages(folder: Path) -> dict[str, list[Path]]:
    """By fingerprint, a stage directory and all that lies beside it."""
    paths: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.partition(".")[0]
        if FINGERPRINT.fullmatch(name) and not path.is_symlink():
            paths.setdefault(name, []).append(path)
    return paths


def _sweep_kind(folder: Path, needed: Collection[str], oldest: float, dry_run: bool) -> Swept:
    swept = Swept(folder.name)
    for name, paths in _stages(folder).items():
        finished = folder / name in paths
        swept.found += finished
        going = paths
        if f"{folder.name}/{name}" in needed:
            going = [path for path in paths if finished and path.suffix in UNFINISHED]
        if not going or _used_since(going, oldest):
            continue

        lock = folder / f"{name}.lock"
        with _locked(lock, dry_run) as is_locked:
            # Somebody may have asked for it between the first look and the lock.
            if not is_locked or _used_since(going, oldest):
                continue
            for path in sorted(going, key=lambda path: path == lock):  # the lock last: without it others may begin
                swept.count(path)
                if not dry_run:
                    _remove(path)
    return swept


def _used_since(paths: Iterable[Path], oldest: float) -> bool:
    """Whether any of them was changed or, which sets the same time, asked for after a time."""
    for path in paths:
        # Of what is unfinished the folder keeps its time while a file in it grows.
        for file in (path, *(path.rglob("*") if path.suffix in UNFINISHED else ())):
            try:
                if file.lstat().st_mtime > oldest:
                    return True
            except FileNotFoundError:
                return True
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, dry_run: bool) -> Iterator[bool]:
    """Whether the lock of a stage could be taken at once; within the block it is held."""
    if dry_run and not path.exists():
        yield True
        return
    with path.open("a") as stream:  # which leaves the time of one that is there
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield is_at(stream, path)
