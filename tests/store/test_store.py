"""The store: built once, found again, repaired, continued."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillery.config.experiment import Recipe
from distillery.store import Handle, StageNotFound, Store, checksum, fingerprint, write_json
from distillery.store.manifest import damaged_file

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


def builder(text: str = "content") -> tuple[Callable[[Path], dict[str, Any]], list[Path]]:
    """A build function and the list of the directories it was given."""
    calls: list[Path] = []

    def build(work: Path) -> dict[str, Any]:
        calls.append(work)
        (work / "deep").mkdir(exist_ok=True)
        (work / "deep" / "file.txt").write_text(text)
        return {"length": len(text)}

    return build, calls


def test_the_same_key_is_built_once(store: Store) -> None:
    """determinism: the second call finds the first one's directory and metrics, and does not build."""
    build, calls = builder()
    first = store.stage("part", "a name", {"x": 1, "y": 2}, build)
    second = Store(store.root).stage("part", "a name", {"y": 2, "x": 1}, build)
    assert len(calls) == 1
    assert (first.cached, second.cached) == (False, True)
    assert asdict(second) == {**asdict(first), "cached": True}
    assert second.file("deep/file.txt").read_text() == "content"
    assert second.metrics == {"length": 7}


def test_another_key_or_stage_is_another_directory(store: Store) -> None:
    """property: directories differ wherever the stage or the key differ, and only there; the name does not count."""
    build, calls = builder()
    paths = [store.stage(s, "n", key, build).path for s, key in (("a", 1), ("a", 2), ("b", 1), ("a", [1]), ("a", "1"))]
    assert len(set(paths)) == len(calls) == 5
    assert store.stage("a", "other name", 1, build).path == paths[0]
    assert len(calls) == 5


def test_a_failed_build_is_continued(store: Store) -> None:
    """resume: a build that raises leaves nothing finished, and the next call gets its directory as it was left."""

    def fails(work: Path) -> dict[str, Any]:
        (work / "first.txt").write_text("done")
        raise OSError("the disk is full")

    def goes_on(work: Path) -> dict[str, Any]:
        (work / "second.txt").write_text((work / "first.txt").read_text() + " and done")
        return {}

    with pytest.raises(OSError, match="disk is full"):
        store.stage("part", "n", 1, fails)
    with pytest.raises(StageNotFound):
        store.as_read_only().stage("part", "n", 1, fails)
    handle = store.stage("part", "n", 1, goes_on)
    assert handle.file("second.txt").read_text() == "done and done"
    assert not list(store.root.rglob("*.part"))


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "flipped": lambda p: p.write_bytes(bytes([p.read_bytes()[0] ^ 1]) + p.read_bytes()[1:]),
    "cut short": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "gone": Path.unlink,
}


def test_what_another_version_made_is_told_and_made_anew(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """contract: said once, with both versions, for the same inputs alone."""
    build, calls = builder()
    with caplog.at_level(logging.INFO):
        for key in ([3, "a"], [3, "b"], [4, "a"], [4, "a"], [4, "c"], "plain", "other"):
            store.stage("part", "my result", key, build)
    assert len(calls) == 6
    assert [record.getMessage() for record in caplog.records] == [
        "part 'my result': found one of version 3, made anew by version 4"
    ]


@pytest.mark.parametrize("file", ["deep/file.txt", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_stage_is_computed_again(
    store: Store, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """resume: damage is found when the stage is opened; the warning names the file, and the result is whole again."""
    build, calls = builder()
    path = store.stage("part", "my result", 1, build).file(file)
    DAMAGE[damage](path)
    with caplog.at_level(logging.WARNING):
        again = store.stage("part", "my result", 1, build)
    assert (len(calls), again.cached) == (2, False)
    assert str(path) in caplog.text and "my result" in caplog.text
    assert again.file("deep/file.txt").read_text() == "content"
    assert store.stage("part", "my result", 1, build).cached


def test_a_stage_that_is_as_it_was_is_not_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """property: bytes that change behind the file system's back are found by a full check, and then by everybody."""
    build, calls = builder()
    handle = store.stage("part", "n", 1, build)
    file = handle.file("deep/file.txt")
    was = file.stat()
    DAMAGE["flipped"](file)
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert store.stage("part", "n", 1, build).cached and store.as_read_only().stage("part", "n", 1, build).cached
    assert damaged_file(Path(handle.path)) == str(file)
    with pytest.raises(StageNotFound):
        store.as_read_only().stage("part", "n", 1, build)
    assert not store.stage("part", "n", 1, build).cached and file.read_text() == "content"
    assert damaged_file(Path(handle.path)) is None and len(calls) == 2


def test_what_is_finished_is_on_the_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: files and manifest are flushed before the stage has its name, the folder that holds the name after."""
    flushed: list[tuple[str, bool]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        named = not any(store.root.glob("part/*.part"))
        flushed.append((path.name, named))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    work = Path(store.stage("part", "n", 1, builder()[0]).path).with_suffix(".part").name
    assert flushed == [(name, False) for name in ("file.txt", "manifest.json.tmp", work)] + [("part", True)]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"files": {}', "\0" * 64])
def test_a_neighbour_that_cannot_be_read_stops_nobody(store: Store, content: str) -> None:
    """resume: what a power cut left of one stage is made again when it is asked for; others are built meanwhile."""
    build, calls = builder()
    handle = store.stage("part", "n", [1, "a"], build)
    handle.file("manifest.json").write_text(content)
    (store.root / "part" / "versions.txt").write_bytes(b"\0\xff" * 20 + b"\nhalf a li")
    assert not store.stage("part", "n", [2, "b"], build).cached
    assert not store.stage("part", "n", [1, "a"], build).cached and len(calls) == 3


OUTSIDE = ["../outside.txt", "/etc/hostname", "deep/../../outside.txt", "..", ".", "", "manifest.json", "a\0b", "a//b"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_names_files_of_its_folder_alone(store: Store, name: str) -> None:
    """contract: one that names another file is damaged, whatever that file holds."""
    build, calls = builder()
    handle = store.stage("part", "n", 1, build)
    (store.root / "part" / "outside.txt").write_text("content")
    tree = handle.json("manifest.json")
    write_json(handle.file("manifest.json"), {**tree, "files": {name: tree["files"]["deep/file.txt"]}})
    with pytest.raises(StageNotFound):
        store.as_read_only().stage("part", "n", 1, build)
    assert not store.stage("part", "n", 1, build).cached and len(calls) == 2


def test_looking_finds_and_never_builds(store: Store) -> None:
    """determinism: a store that only looks gives what is there and raises for what is not."""
    build, calls = builder()
    with pytest.raises(StageNotFound, match="'wanted'"):
        store.as_read_only().stage("part", "wanted", 1, build)
    assert not calls
    made = store.stage("part", "wanted", 1, build)
    assert store.as_read_only().stage("part", "wanted", 1, build).path == made.path
    assert len(calls) == 1


Group = dict[int, Path]


def grouped(broken: frozenset[int] = frozenset()) -> tuple[Callable[[Group], dict[int, Any]], list[list[int]]]:
    """A build function of several stages, of which the places `broken` fail, and a list of what it was given."""
    calls: list[list[int]] = []

    def build(works: Group) -> dict[int, Any]:
        calls.append(list(works))
        for place, work in works.items():
            (work / "file.txt").write_text(f"{place}")
        return {place: OSError(f"place {place}") if place in broken else {"place": place} for place in works}

    return build, calls


def names(*keys: str) -> list[tuple[str, str]]:
    """A request for stages, each called as its key is, in capitals."""
    return [(key.upper(), key) for key in keys]


def test_of_several_stages_only_the_missing_are_built(store: Store) -> None:
    """property: in one call, by their places; every handle has its own name, and is the one that it is alone."""
    build, calls = grouped()
    (alone,) = store.stages("part", names("b"), build)
    found = store.stages("part", names("a", "b", "c"), build)
    assert calls == [[0], [0, 2]] and [h.cached for h in found] == [False, True, False]
    assert [h.name for h in found] == ["A", "B", "C"] and [h.metrics["place"] for h in found] == [0, 0, 2]
    assert found[1].path == alone.path and [h.file("file.txt").read_text() for h in found] == ["0", "0", "2"]
    assert found[0].seconds == found[2].seconds
    assert [h.path for h in store.stages("part", names("c", "a"), build)] == [found[2].path, found[0].path]
    assert store.stage("part", "c", "c", lambda _: {}).path == found[2].path and len(calls) == 2
    assert store.stages("part", [], build) == [] and not list(store.root.rglob("*.part"))


def test_what_is_asked_for_twice_is_built_once(store: Store) -> None:
    """property: of equal keys the first is built, under whatever names they are asked for."""
    build, calls = grouped()
    found = store.stages("part", [("x", "a"), ("y", "b"), ("z", "a")], build)
    assert calls == [[0, 1]] and [h.name for h in found] == ["x", "y", "z"]
    assert found[0].path == found[2].path != found[1].path and found[0].metrics == found[2].metrics


def test_one_failure_keeps_the_others(store: Store) -> None:
    """resume: the first error is raised, what came out well is there, and the next call builds the rest alone."""
    build, _ = grouped(frozenset({1, 3}))
    with pytest.raises(OSError, match="place 1"):
        store.stages("part", names("a", "b", "c", "d"), build)
    again, calls = grouped()
    found = store.stages("part", names("a", "b", "c", "d"), again)
    assert calls == [[1, 3]] and [h.cached for h in found] == [True, False, True, False]
    with pytest.raises(ZeroDivisionError):
        store.stages("part", names("e", "f"), lambda works: 1 // 0)
    assert len(list(store.root.rglob("*.part"))) == 2


def test_of_several_stages_a_damaged_one_is_computed_again(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """resume: it and no other; the warning names its file."""
    build, calls = grouped()
    damaged = store.stages("part", names("a", "b", "c"), build)[1].file("file.txt")
    damaged.write_text("x")
    found = store.stages("part", names("a", "b", "c"), build)
    assert calls == [[0, 1, 2], [1]] and [h.cached for h in found] == [True, False, True]
    assert damaged.read_text() == "1" and str(damaged) in caplog.text


def test_looking_for_several_misses_any(store: Store) -> None:
    """determinism: all are there and whole, or the first that is not is named; nothing is built or repaired."""
    build, calls = grouped()
    found = store.stages("part", names("a", "b"), build)
    looked = store.as_read_only().stages("part", names("b", "a"), build)
    assert [h.path for h in looked] == [found[1].path, found[0].path] and all(h.cached for h in looked)
    with pytest.raises(StageNotFound, match="'C'"):
        store.as_read_only().stages("part", names("a", "c", "d"), build)
    found[1].file("file.txt").write_text("x")
    with pytest.raises(StageNotFound, match="'B'"):
        store.as_read_only().stages("part", names("a", "b"), build)
    assert len(calls) == 1


CHILD = """
import sys
from pathlib import Path
from distillery.store import Store
def build(work):
    with open(sys.argv[2], "a") as log:
        log.write("built ")
    (work / "half.txt").write_text("half")
    if sys.argv[3] == "hang":
        print("building", flush=True)
        sys.stdin.readline()
    return {}
print("ready", flush=True)
sys.stdin.readline()
print(Store(sys.argv[1]).stage("part", "n", 1, build).path)
"""


def child(root: Path, log: Path, mode: str, script: str = CHILD) -> subprocess.Popen[str]:
    """A process that waits for a line and then asks the store for a stage."""
    arguments = [sys.executable, "-c", script, str(root), str(log), mode]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_processes_at_the_same_time_build_once(store: Store, tmp_path: Path) -> None:
    """property: of processes that ask together, one builds and all get the same directory."""
    processes = [child(store.root, tmp_path / "log", "go") for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    paths = {process.communicate()[0] for process in processes}
    assert (tmp_path / "log").read_text() == "built "
    assert len(paths) == 1


OVERLAPPING = """
import fcntl, sys, time
from distillery.store import store
lock = fcntl.flock
def slow(*arguments):
    lock(*arguments)
    time.sleep(0.05)
fcntl.flock = slow
def build(works):
    with open(sys.argv[2], "a") as log:
        log.write("".join(sys.argv[3][place] for place in works))
    return {place: {} for place in works}
print("ready", flush=True)
sys.stdin.readline()
store.Store(sys.argv[1]).stages("part", [(key, key) for key in sys.argv[3]], build)
"""


def test_overlapping_requests_do_not_wait_for_each_other_forever(store: Store, tmp_path: Path) -> None:
    """property: processes that want the same stages in other orders, and are slow between locks, all end; each stage
    is built once."""
    processes = [child(store.root, tmp_path / "log", keys, OVERLAPPING) for keys in ("abc", "cba", "dcb")]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.wait(60) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert sorted((tmp_path / "log").read_text()) == ["a", "b", "c", "d"]


def test_a_killed_process_blocks_nobody(store: Store, tmp_path: Path) -> None:
    """resume: after a kill in the middle of a build, the next one gets the lock and the half-filled directory."""
    process = child(store.root, tmp_path / "log", "hang")
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "building\n"
    process.kill()
    process.communicate()
    seen: list[str] = []

    def build(work: Path) -> dict[str, Any]:
        seen.append((work / "half.txt").read_text())
        return {}

    store.stage("part", "n", 1, build)
    assert seen == ["half"]


def test_a_handle_travels(store: Store) -> None:
    """property: a handle survives pickle and JSON, and finds its files afterwards."""

    def build(work: Path) -> dict[str, Any]:
        write_json(work / "facts.json", {"a": [1, 2.5, None]})
        return {"x": 0.5}

    handle = store.stage("part", "n", 1, build)
    assert pickle.loads(pickle.dumps(handle)) == handle
    assert Handle(**json.loads(json.dumps(asdict(handle)))) == handle
    assert handle.json("facts.json") == {"a": [1, 2.5, None]}


@given(JSON, JSON)
def test_fingerprints_differ_as_values_do(a: Any, b: Any) -> None:
    """property: equal JSON, equal fingerprint; other JSON, another one."""
    assert (fingerprint(a) == fingerprint(b)) == (json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True))
    assert fingerprint(a, b) == fingerprint(a, b)


def test_fingerprints_take_configs_and_paths() -> None:
    """reference: a section counts as its fields, a path as its text, and anything else is refused."""
    assert fingerprint(Recipe(lr=0.5)) == fingerprint(Recipe(lr=0.5).model_dump()) != fingerprint(Recipe(lr=0.6))
    assert fingerprint(Path("/a/b")) == fingerprint("/a/b")
    with pytest.raises(TypeError, match="object"):
        fingerprint(object())


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """property: a write that fails leaves the old file; a checksum sees every byte."""
    file = tmp_path / "x.json"
    write_json(file, {"old": 1})
    before = checksum(file)
    with pytest.raises(TypeError):
        write_json(file, {"new": object()})
    assert json.loads(file.read_text()) == {"old": 1} and checksum(file) == before
    write_json(file, {"old": 2})
    assert checksum(file) != before
