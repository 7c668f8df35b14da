"""Checksums that are kept: only what has changed is read again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distillery.config import experiment
from distillery.sources import file_hash
from distillery.stages.data.preparation import prepare, read_source
from distillery.store import Store
from distillery.store.checksums import kept_in, remembered

LONG_AGO = 1_700_000_000_000_000_000


def silently(file: Path, content: bytes) -> None:
    """Other bytes of the same number in a file, unnoticed by the file system."""
    was = file.stat()
    with file.open("r+b") as stream:
        stream.write(content)
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert file.stat().st_size == was.st_size


def replaced(file: Path, content: bytes) -> None:
    """Another file of the same size and time in the place of one."""
    was = file.stat()
    other = file.with_name("other")
    other.write_bytes(content)
    other.replace(file)
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], Any]] = {
    "another size": lambda f: f.write_bytes(b"new content"),
    "another time": lambda f: (f.write_bytes(b"newer"), os.utime(f, ns=(LONG_AGO, LONG_AGO + 1))),
    "another inode": lambda f: replaced(f, b"newer"),
}


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """A file of five bytes that was written long ago."""
    file = tmp_path / "file"
    file.write_bytes(b"older")
    os.utime(file, ns=(LONG_AGO, LONG_AGO))
    return file


def asked(file: Path, kept: Path) -> tuple[str, int]:
    """(the file's content as it is remembered, how often it was read)."""
    reads: list[Path] = []

    def read(path: Path) -> str:
        reads.append(path)
        return path.read_text()

    with kept_in(kept):
        return remembered(file, read), len(reads)


def test_an_unchanged_file_is_not_read_again(old_file: Path, tmp_path: Path) -> None:
    """property: the answer is the first one; outside of the block everything is read."""
    kept = tmp_path / "deep" / "kept.json"
    assert [asked(old_file, kept) for _ in range(3)] == [("older", 1), ("older", 0), ("older", 0)]
    silently(old_file, b"newer")
    assert asked(old_file, kept) == ("older", 0)
    assert remembered(old_file, Path.read_text) == "newer"
    assert [file.name for file in kept.parent.iterdir()] == ["kept.json"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_read_again(old_file: Path, tmp_path: Path, change: str) -> None:
    """property: whichever part of its stamp has changed."""
    asked(old_file, tmp_path / "kept")
    CHANGES[change](old_file)
    assert asked(old_file, tmp_path / "kept") == (old_file.read_text(), 1)


def test_a_file_that_could_not_be_read_is_tried_again(
    old_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """property: leave to read it comes without another stamp; a file that is not there has the hash of no bytes."""
    nothing = file_hash(tmp_path / "none")
    with monkeypatch.context() as patch, kept_in(tmp_path / "kept"):
        patch.setattr(Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError("not yours")))
        assert file_hash(old_file) == nothing
    with kept_in(tmp_path / "kept"):
        assert file_hash(old_file) == file_hash(old_file) != nothing


def test_a_time_to_come_is_a_time(old_file: Path, tmp_path: Path) -> None:
    """property: a camera's clock may have been wrong; what is kept of files that are gone is dropped."""
    os.utime(old_file, ns=(LONG_AGO, 2 * LONG_AGO))
    gone = tmp_path / "gone"
    gone.write_text("x")
    os.utime(gone, ns=(LONG_AGO, LONG_AGO))
    assert asked(gone, tmp_path / "kept") == ("x", 1)
    assert [asked(old_file, tmp_path / "kept") for _ in range(2)] == [("older", 1), ("older", 0)]
    assert list(json.loads((tmp_path / "kept").read_text())) == [str(old_file)]


def test_a_fresh_file_is_not_trusted(old_file: Path, tmp_path: Path) -> None:
    """property: a file that was written a moment ago may be written again within the same tick of the clock."""
    old_file.write_bytes(b"fresh")
    assert [asked(old_file, tmp_path / "kept") for _ in range(2)] == [("fresh", 1)] * 2


@pytest.mark.parametrize("content", ["", "[]", '{"x": 1, "y": [1, 2]}', '{"half'])
def test_what_is_kept_may_be_damaged(old_file: Path, tmp_path: Path, content: str) -> None:
    """resume: then everything is read, and kept again."""
    (tmp_path / "kept").write_text(content)
    assert [asked(old_file, tmp_path / "kept") for _ in range(2)] == [("older", 1), ("older", 0)]


def characters_read() -> int:
    """Bytes that this process has read from files."""
    (line,) = (line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar"))
    return int(line.split()[1])


@pytest.mark.parametrize("source", ["folder", "timm"])
def test_a_second_night_on_the_same_images_reads_none(source: str, tmp_path: Path, store: Store) -> None:
    """property: by the kernel's count of bytes, hardly a byte; the stage is found, and is the same."""
    for number in range(120):
        file = tmp_path / "photos" / f"class {number % 2}" / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (60, 60, 3), np.uint8)).save(file)
        os.utime(file, ns=(LONG_AGO, LONG_AGO))
    total = sum(file.stat().st_size for file in tmp_path.glob("photos/*/*"))
    options = {"folder": {"path": str(tmp_path / "photos")}, "timm": {"name": "", "root": str(tmp_path / "photos")}}
    data = experiment.Data(source=source, image_size=32, split={"order": "hashed"}, **options[source])

    def night() -> tuple[str, bool, int]:
        before = characters_read()
        handle = prepare(data, read_source(data, store), store)
        return handle.path, handle.cached, characters_read() - before

    path, cached, read = night()
    assert not cached and read > total
    again, cached, read = night()
    assert (again, cached) == (path, True) and read < 0.02 * total + 50_000

    changed = next(tmp_path.glob("photos/*/000.png"))
    Image.new("RGB", (60, 60)).save(changed)
    other, cached, read = night()
    assert other != path and not cached and read < 0.02 * total + 150_000
