"""Finished stages on object storage, or wherever else fsspec reads and writes: for machines that share no folder.

A stage lies at ``<address>/<stage>/<fingerprint>/``, each of its files under the file's checksum, and its manifest is
written last. So what was cut off half-way is not there, and of two machines that send the same stage at the same time
one wins: their files are never mixed.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from distillery.address import mask_in, masked
from distillery.errors import InputError, first_line
from distillery.store import manifest
from distillery.store.manifest import MANIFEST

VARIABLE = "DISTILLERY_REMOTE"
NEEDS = {"s3": "distillery[s3]"}  # what brings the package of a kind of address
LONGEST = 200  # characters of a reason: object stores answer with whole pages

OPTIONS: dict[str, dict[str, object]] = {
    "file": {"auto_mkdir": True},
    "s3": {"config_kwargs": {"retries": {"total_max_attempts": 2}}},  # s3fs tries five times around these
}


class Unreachable(ConnectionError):
    """The remote did not answer, or refused what it was asked for."""


class Damaged(ValueError):
    """A stage at the remote is not as it was sent."""


@dataclass(frozen=True)
class Remote:
    """Where finished stages are shared, for instance ``s3://bucket/prefix``; logins are fsspec's own affair."""

    address: str

    @property
    def shown(self) -> str:
        """The address as it may be printed, without a password."""
        return masked(self.address)

    def check(self) -> None:
        """Reads, writes, looks and deletes there.

        Raises:
            InputError: It is not an address, does not answer, or does not allow it.
        """
        problem = f"{VARIABLE}: expected storage such as s3://bucket/prefix that may be read and changed, got"
        if "://" not in self.address:
            raise InputError(f"{problem} {self.shown!r}")
        try:
            with self._opened() as (fs, root):
                with suppress(FileNotFoundError):
                    fs.ls(root)  # first: here S3 says why it refuses, and is not waited for for ever
                fs.pipe_file(f"{root}/.check", b"distillery")
                _is_there(fs, f"{root}/.none")
                fs.cat_file(f"{root}/.check")
                fs.rm_file(f"{root}/.check")
        except ImportError as error:
            kind = self.address.partition("://")[0]
            wanted = NEEDS.get(kind, f"the package that fsspec opens {kind}:// with")
            raise InputError(f"{VARIABLE}: expected {wanted} to be installed, got: {self._reason(error)}") from error
        except OSError as error:
            raise InputError(f"{problem} {self.shown!r}: {self._reason(error)}") from error

    def _reason(self, error: Exception) -> str:
        """The reason of an error, which may repeat the address."""
        return mask_in(first_line(error)[:LONGEST], self.address)

    def holds(self, stage: str, fingerprint: str) -> bool:
        """Whether a stage is there, as far as can be seen without reading it."""
        with self._opened() as (fs, root):
            return _is_there(fs, f"{root}/{stage}/{fingerprint}/{MANIFEST}")

    def fetch(self, stage: str, fingerprint: str, folder: Path) -> None:
        """Downloads a stage into a folder, its checksums not compared yet.

        Raises:
            Damaged: A part of it is gone, or its manifest is none, or names files outside the folder.
        """
        with self._opened() as (fs, root):
            there = f"{root}/{stage}/{fingerprint}"
            try:
                content = fs.cat_file(f"{there}/{MANIFEST}")
                files = _files(there, folder, content)
                for path in (folder / MANIFEST, *files):
                    path.parent.mkdir(parents=True, exist_ok=True)
                if files:
                    fs.get(list(files.values()), [str(path) for path in files])
            except (FileNotFoundError, ValueError) as error:
                raise Damaged(first_line(error)[:LONGEST]) from error
            (folder / MANIFEST).write_bytes(content)

    def send(self, stage: str, folder: Path) -> None:
        """Uploads a finished stage directory, its manifest last, unless that stage is there."""
        if self.holds(stage, folder.name):
            return
        content = (folder / MANIFEST).read_bytes()
        with self._opened() as (fs, root):
            there = f"{root}/{stage}/{folder.name}"
            files = _files(there, folder, content)
            if files:
                fs.put([str(path) for path in files], list(files.values()))
            fs.pipe_file(f"{there}/{MANIFEST}", content)

    def discard(self, stage: str, fingerprint: str) -> None:
        """Takes a stage out of everybody's sight."""
        with self._opened() as (fs, root):
            fs.rm_file(f"{root}/{stage}/{fingerprint}/{MANIFEST}")

    @contextmanager
    def _opened(self) -> Iterator[tuple[AbstractFileSystem, str]]:
        """fsspec's file system and the path in it; what goes wrong is `Unreachable`, but for what is not there."""
        options = OPTIONS.get(self.address.partition("://")[0], {})
        try:
            fs, root = url_to_fs(self.address, use_listings_cache=False, **options)
            yield fs, root.rstrip("/")
        except (FileNotFoundError, ImportError, Damaged):
            raise
        except Exception as error:  # each kind of storage has errors of its own
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise Unreachable(self._reason(error)) from error


def _is_there(fs: AbstractFileSystem, path: str) -> bool:
    try:
        fs.info(path)  # fsspec's own `exists` takes every error for an answer
    except FileNotFoundError:
        return False
    return True


def _files(there: str, folder: Path, content: bytes) -> dict[Path, str]:
    """Where each file of a stage lies here, and there; all of them in these two folders."""
    named = manifest.parse(content).files
    return {folder / name: f"{there}/{digest}/{name}" for name, (_, digest) in named.items()}
