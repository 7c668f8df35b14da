"""The store: stage directories named by content fingerprint. Atomic, verified, resumable.

A stage directory is named by a hash of everything that determines its content. It is filled under the name
``<fingerprint>.part`` (which outlives a crash, so that a stage can continue what it began), checksummed, renamed,
and only then counts as done. A damaged file is found when the stage is opened, and the stage is computed again.
With a `Remote`, what is missing here is looked for there first, and what is finished here is sent there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from distillery.errors import InputError
from distillery.memory import trim_heap
from distillery.store import manifest
from distillery.store.checksums import checksum as checksum
from distillery.store.checksums import flush
from distillery.store.manifest import broken_file
from distillery.store.remote import Damaged, Remote, Unreachable

log = logging.getLogger(__name__)

Build = Callable[[dict[int, Path]], Mapping[int, Mapping[str, object] | Exception]]
"""Fills stage directories; the metrics of each, or what went wrong with it."""


@dataclass(frozen=True)
class Handle:
    """What a stage hands to the next one: where its result lies, never the result itself."""

    stage: str
    name: str
    path: str
    fingerprint: str
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    cached: bool = False

    def file(self, name: str) -> Path:
        """The path of one file of the stage."""
        return Path(self.path) / name

    def json(self, name: str) -> Any:
        """The content of one JSON file of the stage."""
        return json.loads(self.file(name).read_text())


def fingerprint(*parts: object) -> str:
    """Hex digest (24 characters) of the canonical JSON of `parts`."""
    text = json.dumps(parts, sort_keys=True, default=_plain, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _plain(value: object) -> object:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot fingerprint a {type(value).__name__}")


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON so that a reader sees the old file or the new one, never half of one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1, sort_keys=False, allow_nan=True, default=_plain))
    temporary.replace(path)


class StageNotFound(InputError):
    """A store that only looks was asked for a stage that is not there."""


class Store:
    """Stage directories below one root folder. One that only looks raises `StageNotFound` instead of building."""

    def __init__(self, root: Path | str, *, only_look: bool = False, remote: Remote | None = None) -> None:
        self.root = Path(root).resolve()
        self.remote = remote
        self._only_look = only_look

    def as_read_only(self) -> Store:
        """The same store, for finding what is there without computing what is not."""
        return Store(self.root, only_look=True, remote=self.remote)

    def stage(
        self,
        stage: str,
        name: str,
        key: object,
        build: Callable[[Path], Mapping[str, object]],
    ) -> Handle:
        """The finished stage directory for `key`, built only if it is not there and whole.

        Args:
            stage: Name of the stage, a folder of the store.
            name: What a person calls this result.
            key: Everything that determines the content; JSON-able. The number that a list begins with, if any, is
                the version of the code.
            build: Fills the directory it is given and returns metrics. After a crash it is called again with the
                same directory, and may keep what it finds there and can trust.
        """
        (handle,) = self.stages(stage, [(name, key)], lambda works: {0: build(works[0])})
        return handle

    def stages(
        self,
        stage: str,
        wanted: Sequence[tuple[str, object]],
        build: Build,
    ) -> list[Handle]:
        """Several finished stage directories, of which those that are missing are built together.

        Args:
            stage: Name of the stage, a folder of the store.
            wanted: Name and key of each, as for `stage`.
            build: Fills the directories that it is given, by place in `wanted`, and returns the metrics of each, or
                what went wrong with it. The others are kept all the same, then the first error is raised.
        """
        finals = [self.root / stage / fingerprint(stage, key) for _, key in wanted]
        if self._only_look:
            return [self.find(stage, final.name, name) for final, (name, _) in zip(finals, wanted, strict=True)]
        (self.root / stage).mkdir(parents=True, exist_ok=True)
        with ExitStack() as locks:
            for final in sorted(set(finals)):  # in one order everywhere, so that no two wait for each other
                locks.enter_context(locked(final.with_suffix(".lock")))
            opened = {f: self._open(f, stage, name) for f, (name, _) in zip(finals, wanted, strict=True)}
            missing = {finals.index(f): f for f, handle in opened.items() if handle is None}
            if missing:
                self._tell_older(stage, [wanted[index] for index in missing])
                self._build(stage, {index: (*wanted[index], final) for index, final in missing.items()}, build, opened)
        handles = [(opened[final], name) for final, (name, _) in zip(finals, wanted, strict=True)]
        return [replace(handle, name=name) for handle, name in handles if handle is not None]

    def find(self, stage: str, fingerprint: str, name: str) -> Handle:
        """A finished stage directory that is here, or at the remote.

        Raises:
            StageNotFound: It is at neither, or not whole.
        """
        final = self.root / stage / fingerprint
        if not final.exists() and self._is_remote(final, stage, name):
            final.parent.mkdir(parents=True, exist_ok=True)
            with locked(final.with_suffix(".lock")):
                _ = final.exists() or self._fetch(final, stage, name)
        if not final.exists() or broken_file(final) is not None:
            where = self.root if self.remote is None else f"{self.root} or {self.remote.shown}"
            raise StageNotFound(f"{stage} {name!r}: expected it to be finished in {where}, got none that is whole")
        return _handle(final, stage, name)

    def _build(
        self,
        stage: str,
        missing: dict[int, tuple[str, object, Path]],
        build: Build,
        opened: dict[Path, Handle | None],
    ) -> None:
        works = {index: final.with_suffix(".part") for index, (*_, final) in missing.items()}
        for work in works.values():
            work.mkdir(exist_ok=True)
        began = time.perf_counter()
        results = build(works)
        trim_heap()
        seconds = (time.perf_counter() - began) / len(works)
        errors = []
        for index, (name, key, final) in missing.items():
            result = results[index]
            if isinstance(result, Exception):
                errors.append(result)
                continue
            identity = _identity(key)
            manifest.seal(works[index], result, seconds, identity)
            works[index].rename(final)
            flush(final.parent)
            manifest.note_version(final.parent, identity)
            opened[final] = replace(_handle(final, stage, name), cached=False)
            self._send(final, stage, name)
        if errors:
            raise errors[0]

    def _tell_older(self, stage: str, missing: list[tuple[str, object]]) -> None:
        """Says which of the missing ones were made before, by another version of the code."""
        versions = manifest.versions(self.root / stage)
        for name, key in missing:
            identity = _identity(key)
            same, now = identity["same"], identity["version"]
            was = now if same is None else versions.get(same, now)
            if was != now:
                log.info("%s '%s': found one of version %s, made anew by version %s", stage, name, was, now)

    def _open(self, final: Path, stage: str, name: str) -> Handle | None:
        if final.exists():
            broken = broken_file(final)
            if broken is None:
                self._send(final, stage, name)
                return _handle(final, stage, name)
            log.warning("%s '%s': %s is damaged, computing it again", stage, name, broken)
            shutil.rmtree(final)
            final.with_suffix(".verified").unlink(missing_ok=True)
        if self._is_remote(final, stage, name) and self._fetch(final, stage, name):
            return _handle(final, stage, name)
        return None

    def _is_remote(self, final: Path, stage: str, name: str) -> bool:
        try:
            return self.remote is not None and self.remote.holds(stage, final.name)
        except Unreachable as error:
            log.warning("%s '%s': not looked for at the remote: %s", stage, name, error)
            return False

    def _fetch(self, final: Path, stage: str, name: str) -> bool:
        """Whether a stage that the remote holds is whole, and here now."""
        assert self.remote is not None
        arriving = final.with_suffix(".fetched")  # not .part, where a build may have begun
        shutil.rmtree(arriving, ignore_errors=True)
        try:
            self.remote.fetch(stage, final.name, arriving)
            manifest.settle(arriving)
            if (broken := broken_file(arriving)) is not None:
                raise Damaged(Path(broken).name)
            arriving.rename(final)
            flush(final.parent)
        except Unreachable as error:
            log.warning("%s '%s': not fetched, computing it: %s", stage, name, error)
            return False
        except Damaged as error:
            log.warning("%s '%s': damaged at %s (%s), computing it again", stage, name, self.remote.shown, error)
            if not self._only_look:
                self.remote.discard(stage, final.name)
            return False
        finally:
            shutil.rmtree(arriving, ignore_errors=True)
        shutil.rmtree(final.with_suffix(".part"), ignore_errors=True)
        log.info("%s '%s': fetched from the remote", stage, name)
        return True

    def _send(self, final: Path, stage: str, name: str) -> None:
        """Sends a stage that the remote lacks. One that cannot be sent now is sent when it is next opened."""
        try:
            if self.remote is not None:
                self.remote.send(stage, final)
        except OSError as error:
            log.warning("%s '%s': kept here, not sent: %s", stage, name, error)


def _identity(key: object) -> manifest.Identity:
    if isinstance(key, list) and key and isinstance(key[0], int):
        return {"version": key[0], "same": fingerprint(key[1:])}
    return {"version": None, "same": None}


def _handle(final: Path, stage: str, name: str) -> Handle:
    sealed = manifest.read(final)
    return Handle(stage, name, str(final), final.name, sealed.metrics, sealed.seconds, cached=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone with what a lock file stands for. The kernel drops the lock when its holder dies: no killed run blocks."""
    while True:
        with path.open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if is_at(stream, path):
                yield
                return


def is_at(stream: IO[str] | IO[bytes], path: Path) -> bool:
    """Whether an open file still lies at a path: somebody may have removed it meanwhile, see `sweep`."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
