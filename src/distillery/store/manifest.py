"""The manifest of a stage directory: what it holds, with sizes and checksums. It is written last."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypedDict

from distillery.store.checksums import Checksums, flush

MANIFEST = "manifest.json"
VERSIONS = "versions.txt"
DIGEST = re.compile(r"[0-9a-f]{32}")


class Identity(TypedDict):
    """The `version` of the code that made a stage, and what is the `same` in all versions; None for a key without."""

    version: int | None
    same: str | None


@dataclass(frozen=True)
class Manifest:
    """What a manifest says.

    Attributes:
        metrics: What the build returned.
        seconds: How long it took.
        files: Size in bytes and checksum of each file, by its name in the stage directory.
    """

    metrics: dict[str, object]
    seconds: float
    files: dict[str, tuple[int, str]]


def parse(content: bytes) -> Manifest:
    """A manifest from its bytes.

    Raises:
        ValueError: It is none, or it names a file that does not lie in the stage directory.
    """
    tree = json.loads(content)
    if not isinstance(tree, dict) or not isinstance(tree.get("files"), dict):
        raise ValueError(f"expected a manifest with files, got {content[:40]!r}")
    if not isinstance(tree.get("metrics"), dict) or not isinstance(tree.get("seconds"), int | float):
        raise ValueError("expected a manifest with metrics and seconds")
    files = {name: _entry(name, entry) for name, entry in tree["files"].items()}
    return Manifest(tree["metrics"], tree["seconds"], files)


def _entry(name: str, entry: object) -> tuple[int, str]:
    path = PurePosixPath(name)
    leaves = path.is_absolute() or ".." in path.parts
    if leaves or str(path) != name or name in (".", MANIFEST) or "\0" in name:
        raise ValueError(f"expected names of files in the stage directory, got {name!r}")
    match entry:
        case [int(size), str(digest)] if DIGEST.fullmatch(digest):
            return size, digest
    raise ValueError(f"{name}: expected its size and checksum, got {entry!r}")


def read(stage: Path) -> Manifest:
    """The manifest of a stage directory.

    Raises:
        OSError: There is none.
        ValueError: See `parse`.
    """
    return parse((stage / MANIFEST).read_bytes())


def seal(work: Path, metrics: Mapping[str, object], seconds: float, identity: Identity) -> None:
    """Checksums a directory that is finished, and writes its manifest; both are flushed to the disk.

    So no stamp of a file outlives what was in it. A file whose name a power cut took from its folder is found missing.
    """
    checksums = Checksums.beside(work)
    files = {}
    for name in _files(work):
        checksums.settle(name)
        files[name] = [(work / name).stat().st_size, checksums.of(name)]
    checksums.save()

    temporary = work / f"{MANIFEST}.tmp"
    content = {"metrics": dict(metrics), "seconds": seconds, "files": files, **identity}
    temporary.write_text(json.dumps(content, indent=1))
    flush(temporary)
    temporary.replace(work / MANIFEST)
    flush(work)


def settle(stage: Path) -> None:
    """Flushes the files of a directory that has arrived from elsewhere, and takes their checksums."""
    checksums = Checksums.beside(stage)
    for name in _files(stage):
        checksums.settle(name)
    flush(stage / MANIFEST)
    checksums.save()


def _files(folder: Path) -> list[str]:
    """Names of the files of a stage directory, the manifest left out."""
    names = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in (MANIFEST, f"{MANIFEST}.tmp"):
            names.append(name)
    return names


def broken_file(stage: Path, names: Collection[str] | None = None) -> str | None:
    """The first file of a finished stage directory that is not as it was sealed; None if all are.

    A file that has kept its size, time and inode since its bytes were last compared is not read, see `Checksums`.

    Args:
        stage: The directory.
        names: Compare these files alone.
    """
    try:
        files = read(stage).files
    except (OSError, ValueError):
        return str(stage / MANIFEST)
    checksums = Checksums.beside(stage)
    broken = _first_broken(stage, files if names is None else names, files, checksums)
    checksums.save()
    return broken


def damaged_file(stage: Path) -> str | None:
    """The same, with every file read."""
    stage.with_suffix(".verified").unlink(missing_ok=True)
    return broken_file(stage)


def _first_broken(
    stage: Path, names: Collection[str], files: dict[str, tuple[int, str]], checksums: Checksums
) -> str | None:
    for name in names:
        path = stage / name
        size, digest = files.get(name, (-1, ""))
        try:
            if path.stat().st_size != size or checksums.of(name) != digest:
                return str(path)
        except OSError:
            return str(path)
    return None


def versions(folder: Path) -> dict[str, int]:
    """The last version of the code that made each stage of one name, by what is the same in all versions of its key.

    They stand in one file, since reading every manifest takes longer with every run.
    """
    try:
        lines = (folder / VERSIONS).read_text(errors="replace").splitlines()
    except OSError:
        return {}
    last = {}
    for line in lines:
        same, _, version = line.partition(" ")
        if version.isdecimal():
            last[same] = int(version)
    return last


def note_version(folder: Path, identity: Identity) -> None:
    """Adds a stage to them."""
    if identity["same"] is None:
        return
    with suppress(OSError), (folder / VERSIONS).open("a") as stream:  # it is there for a message alone
        stream.write(f"{identity['same']} {identity['version']}\n")
