"""Sweeping a store: what is needed, in use or not of the store stays."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distillery.config import experiment
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preparation import prepare, read_source
from distillery.store import Handle, Store, fingerprint
from distillery.store.sweep import DAY, damaged, sweep


def aged(root: Path, days: float = 2.0) -> None:
    """Sets everything below a folder back in time."""
    then = time.time() - days * DAY
    for path in root.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)


def made(store: Store, key: str, stage: str = "part", size: int = 1000) -> Handle:
    """A finished stage with a file of so many bytes."""

    def build(work: Path) -> dict[str, Any]:
        (work / "file").write_bytes(b"x" * size)
        return {}

    return store.stage(stage, key, key, build)


def name(handle: Handle) -> str:
    """As `sweep` is told of it."""
    return f"{handle.stage}/{handle.fingerprint}"


def left(store: Store) -> set[str]:
    """The finished stages."""
    return {f"{file.parents[1].name}/{file.parent.name}" for file in store.root.glob("*/*/manifest.json")}


def test_what_is_needed_stays(store: Store) -> None:
    """property: all else goes, with its lock and stamps; a dry run says the same and changes nothing."""
    one, two, other = made(store, "one"), made(store, "two"), made(store, "three", "other", 5000)
    aged(store.root)
    before = sorted(store.root.rglob("*"))
    told = sweep(store.root, {name(one)}, dry_run=True)
    assert sorted(store.root.rglob("*")) == before
    assert sweep(store.root, {name(one)}) == told
    assert [(s.kind, s.found, s.removed, s.leftovers) for s in told] == [("other", 1, 1, 0), ("part", 2, 1, 0)]
    assert 5000 < told[0].bytes < 7000 and 1000 < told[1].bytes < 3000
    assert left(store) == {name(one)}
    assert not list(store.root.rglob(f"{two.fingerprint}*")) and not list(store.root.rglob(f"{other.fingerprint}*"))
    assert made(store, "one").cached and not made(store, "two").cached


def test_what_is_used_or_locked_stays(store: Store) -> None:
    """property: whoever has asked for a stage within a day, by building, finding or looking, finds it afterwards."""
    handles = {key: made(store, key) for key in ("found", "looked at", "locked", "forgotten")}
    aged(store.root)
    made(store, "found")
    store.as_read_only().stage("part", "looked at", "looked at", lambda work: {})
    fresh = made(store, "fresh")
    (swept,) = sweep(store.root, (), since=time.time() - 3 * DAY)
    assert swept.removed == 0
    with Path(handles["locked"].path).with_suffix(".lock").open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        (swept,) = sweep(store.root, ())
    assert (swept.found, swept.removed) == (5, 1)
    assert left(store) == {name(h) for h in (*handles.values(), fresh)} - {name(handles["forgotten"])}


def test_what_a_dead_run_left_goes(store: Store) -> None:
    """property: unfinished builds that nothing was written to for a day; a younger one can still be gone on with."""

    def fails(work: Path) -> dict[str, Any]:
        (work / "half").write_bytes(b"x" * 1000)
        raise OSError("the disk is full")

    for key in ("old", "young"):
        with pytest.raises(OSError, match="disk is full"):
            store.stage("part", key, key, fails)
    needed = made(store, "needed")
    Path(needed.path).with_suffix(".fetched").mkdir()
    aged(store.root)
    young = store.root / "part" / f"{fingerprint('part', 'young')}.part"
    os.utime(young / "half")
    (swept,) = sweep(store.root, {name(needed)})
    assert (swept.found, swept.removed, swept.leftovers) == (1, 0, 2) and swept.bytes >= 1000
    unfinished = [path for path in store.root.rglob("*") if path.suffix in (".part", ".fetched")]
    assert unfinished == [young] and left(store) == {name(needed)}


def test_nothing_else_is_touched(store: Store, tmp_path: Path) -> None:
    """property: what is not a stage's, and what links lead to, stays; checksums of sources go when nobody uses them."""
    elsewhere = made(Store(tmp_path / "elsewhere"), "one")
    made(store, "two")
    for path in ("optuna.journal", "part/notes.txt", "work/job/000001.job", "mine/file", "checksums/used.json"):
        (store.root / path).parent.mkdir(parents=True, exist_ok=True)
        (store.root / path).write_text("mine")
    (store.root / "checksums" / f"{'0' * 24}.json").write_text("{}")
    (store.root / "linked").symlink_to(Path(elsewhere.path).parent)
    (store.root / "part" / elsewhere.fingerprint).symlink_to(elsewhere.path)
    aged(tmp_path, 40)
    os.utime(store.root / "checksums" / "used.json")
    sweep(store.root, ())
    assert left(store) == {f"linked/{elsewhere.fingerprint}", f"part/{elsewhere.fingerprint}"}
    assert elsewhere.file("file").stat().st_size == 1000
    files = {str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file()}
    kept = {"optuna.journal", "part/notes.txt", "work/job/000001.job", "mine/file", "checksums/used.json"}
    assert {file for file in files if not file.startswith("linked/")} == kept
    assert sweep(tmp_path / "nothing", ()) == []


def drawn(place: Path, numbers: range) -> None:
    """Images of two classes."""
    for number in numbers:
        file = place / "ab"[number % 2] / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)).save(file)


def test_a_night_later_the_last_one_finds_its_stages(store: Store, tmp_path: Path) -> None:
    """property: the stage of the first run goes and frees little, since the second one links its rows."""
    data = experiment.Data(source="folder", path=str(tmp_path / "photos"), image_size=16, split={"order": "hashed"})

    def night() -> Handle:
        return prepare(data, read_source(data, store), store)

    drawn(tmp_path / "photos", range(40))
    first = night()
    drawn(tmp_path / "photos", range(40, 42))
    second = night()
    content = np.asarray(Dataset(second).inputs)
    aged(store.root)

    (swept,) = sweep(store.root, {name(second)})
    assert (swept.found, swept.removed) == (2, 1) and not Path(first.path).exists()
    assert swept.bytes < 40 * 3 * 16 * 16 <= content.nbytes
    again = night()
    assert again.cached and again.path == second.path
    assert np.array_equal(np.asarray(Dataset(again).inputs), content)

    aged(store.root)
    (swept,) = sweep(store.root, ())
    assert swept.removed == 1 and swept.bytes > content.nbytes


def test_a_full_check_names_every_damaged_stage(store: Store) -> None:
    """property: also damage that the file system does not know of; a stage that is whole is not named."""
    handles = [made(store, key) for key in ("whole", "silent", "cut", "gone")]
    was = handles[1].file("file").stat()
    handles[1].file("file").write_bytes(b"y" * 1000)
    os.utime(handles[1].file("file"), ns=(was.st_atime_ns, was.st_mtime_ns))
    assert made(store, "silent").cached
    handles[2].file("file").write_bytes(b"x")
    handles[3].file("file").unlink()
    assert set(damaged(store.root)) == {Path(handle.path) for handle in handles[1:]}
    assert [made(store, key).cached for key in ("whole", "silent", "cut", "gone")] == [True, False, False, False]
    assert list(damaged(store.root)) == []
