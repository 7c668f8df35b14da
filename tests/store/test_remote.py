"""Finished stages shared through a remote: sent, fetched, repaired, and never in the way of the work."""

from __future__ import annotations

import json
import logging
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from distillery.errors import InputError
from distillery.store import Handle, StageNotFound, Store, checksum
from distillery.store.remote import MANIFEST, Damaged, Remote, Unreachable


class Weak(MemoryFileSystem):
    """Storage that fails on request: `fails` is asked before every upload and download, and at every look."""

    protocol = "weak"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    fails: ClassVar[Callable[[str, str], Any]] = staticmethod(lambda doing, path: None)

    def info(self, path: str, **more: Any) -> Any:
        type(self).fails("look", path)
        return super().info(path, **more)

    def put_file(self, lpath: str, rpath: str, **more: Any) -> None:
        type(self).fails("put", rpath)
        super().put_file(lpath, rpath, **more)

    def get_file(self, rpath: str, lpath: str, **more: Any) -> None:
        type(self).fails("get", rpath)
        super().get_file(rpath, lpath, **more)


fsspec.register_implementation("weak", Weak, clobber=True)


@pytest.fixture
def weak(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test say what fails; ends with empty storage."""
    yield monkeypatch
    Weak.store.clear()


@pytest.fixture(params=["file", "memory"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Remote]:
    """An empty remote."""
    yield Remote(f"file://{tmp_path}/remote" if request.param == "file" else "memory://remote/deep")
    MemoryFileSystem.store.clear()


def opened(remote: Remote) -> tuple[Any, str]:
    """Its file system, and the path in it."""
    fs, root = fsspec.core.url_to_fs(remote.address)
    return fs, root


def machine(tmp_path: Path, name: str, remote: Remote | None) -> Store:
    """The store of a machine of its own."""
    return Store(tmp_path / name, remote=remote)


def build(work: Path) -> dict[str, Any]:
    """A stage with a folder, an empty file and two equal ones."""
    (work / "deep").mkdir(exist_ok=True)
    for name, text in (("a.txt", "content"), ("deep/b.txt", "content"), ("empty", "")):
        (work / name).write_text(text)
    return {"length": 7}


def never(work: Path) -> dict[str, Any]:
    """A build that must not be."""
    raise AssertionError("built although it was there")


def whole(handle: Handle) -> bool:
    """Whether it holds what `build` wrote, and nothing else."""
    found = {str(p.relative_to(handle.path)) for p in Path(handle.path).rglob("*") if p.is_file()}
    texts = [handle.file(name).read_text() for name in ("a.txt", "deep/b.txt", "empty")]
    return texts == ["content", "content", ""] and found == {"a.txt", "deep/b.txt", "empty", MANIFEST}


def test_what_one_machine_built_another_fetches(
    remote: Remote, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """property: files, metrics and seconds as they were, found as finished; then the remote is not needed for it."""
    made = machine(tmp_path, "one", remote).stage("part", "mine", 1, build)
    other = machine(tmp_path, "other", remote)
    with caplog.at_level(logging.INFO):
        found = other.stage("part", "theirs", 1, never)
    assert whole(found) and found.cached and Path(found.path) == other.root / "part" / made.fingerprint
    assert {**asdict(found), "path": made.path, "name": "mine", "cached": False} == asdict(made)
    assert "part 'theirs': fetched from the remote" in caplog.text
    assert machine(tmp_path, "other", None).stage("part", "theirs", 1, never).cached
    assert not [p for p in other.root.rglob("*") if p.suffix in (".part", ".fetched")]
    with pytest.raises(AssertionError):
        machine(tmp_path, "other", remote).stage("part", "mine", 2, never)


def test_of_several_stages_the_rest_is_built(remote: Remote, tmp_path: Path) -> None:
    """property: fetched ones are not given to the build; a stage without files travels, too."""
    machine(tmp_path, "one", remote).stage("part", "b", "b", lambda work: {"from": "one"})
    built: list[list[int]] = []

    def rest(works: dict[int, Path]) -> dict[int, dict[str, Any] | Exception]:
        built.append(list(works))
        return {place: {"from": "other"} for place in works}

    found = machine(tmp_path, "other", remote).stages("part", [(k, k) for k in "abc"], rest)
    assert built == [[0, 2]] and [h.metrics["from"] for h in found] == ["other", "one", "other"]
    assert [machine(tmp_path, "third", remote).stage("part", k, k, never).metrics["from"] for k in "ac"] == 2 * [
        "other"
    ]


def test_looking_fetches_and_never_builds(remote: Remote, tmp_path: Path) -> None:
    """contract: a part of the chain finds on this machine what another one finished; the store travels with pickle."""
    other: Store = pickle.loads(pickle.dumps(machine(tmp_path, "other", remote)))
    with pytest.raises(StageNotFound, match=r"expected it to be finished in .*/other or (file|memory)://"):
        other.as_read_only().stage("part", "n", 1, never)
    machine(tmp_path, "one", remote).stage("part", "n", 1, build)
    assert whole(other.as_read_only().stage("part", "n", 1, never))


def test_a_build_that_was_cut_off_is_replaced_by_what_is_fetched(remote: Remote, tmp_path: Path) -> None:
    """resume: nothing of the half-built directory is left in the finished one, or beside it."""
    other = machine(tmp_path, "other", remote)

    def fails(work: Path) -> dict[str, Any]:
        (work / "half.txt").write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        other.stage("part", "n", 1, fails)
    machine(tmp_path, "one", remote).stage("part", "n", 1, build)
    assert whole(other.stage("part", "n", 1, never)) and not list(other.root.rglob("half.txt"))


DAMAGE: dict[str, Callable[[Any, str], Any]] = {
    "a file changed": lambda fs, path: fs.pipe_file(path, b"contenT"),
    "a file cut short": lambda fs, path: fs.pipe_file(path, b"cont"),
    "a file gone": lambda fs, path: fs.rm_file(path),
    "half a manifest": lambda fs, path: fs.pipe_file(path.rsplit("/", 2)[0] + f"/{MANIFEST}", b'{"files": {'),
    "another manifest": lambda fs, path: fs.pipe_file(path.rsplit("/", 2)[0] + f"/{MANIFEST}", b"{}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_remote_is_told_and_replaced(
    remote: Remote, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """resume: computed again where it is needed, and whole for the next machine; looking changes nothing."""
    made = machine(tmp_path, "one", remote).stage("part", "n", 1, build)
    fs, root = opened(remote)
    DAMAGE[damage](fs, f"{root}/part/{made.fingerprint}/{checksum(made.file('a.txt'))}/a.txt")
    other = machine(tmp_path, "other", remote)
    with pytest.raises(StageNotFound):
        other.as_read_only().stage("part", "n", 1, never)
    assert remote.holds("part", made.fingerprint)
    again = other.stage("part", "my result", 1, build)
    assert whole(again) and not again.cached and "part 'my result': damaged at" in caplog.text
    assert whole(machine(tmp_path, "third", remote).stage("part", "n", 1, never))
    assert not list(other.root.rglob("*.fetched"))


NAMES = ["../../outside.txt", "/{root}/outside.txt", "deep/../../outside.txt"]


@pytest.mark.parametrize("name", NAMES)
def test_a_remote_writes_into_the_stage_directory_alone(
    remote: Remote, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """contract: a manifest there that names another place is damaged: nothing is written, the stage is computed."""
    made = machine(tmp_path, "one", remote).stage("part", "n", 1, build)
    name = name.replace("/{root}", str(tmp_path))
    fs, root = opened(remote)
    there = f"{root}/part/{made.fingerprint}"
    tree = json.loads(fs.cat_file(f"{there}/{MANIFEST}"))
    size, digest = tree["files"]["a.txt"]
    place = f"{there}/{digest}/{name}"
    fs.makedirs(place.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(place, b"content")
    fs.pipe_file(f"{there}/{MANIFEST}", json.dumps({**tree, "files": {name: [size, digest]}}).encode())
    before = {path for path in tmp_path.rglob("*") if path.is_file() and "remote" not in path.parts}

    again = machine(tmp_path, "other", remote).stage("part", "n", 1, build)
    assert whole(again) and not again.cached and "expected names of files in the stage directory" in caplog.text
    arrived = {path for path in tmp_path.rglob("*") if path.is_file() and "remote" not in path.parts} - before
    assert all(path.is_relative_to(tmp_path / "other" / "part") for path in arrived)


def test_nothing_else_is_sent(remote: Remote, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """contract: a manifest here that names another file sends none of this machine's files."""
    made = machine(tmp_path, "one", None).stage("part", "n", 1, build)
    tree = made.json(MANIFEST)
    (tmp_path / "secret").write_text("secret")
    made.file(MANIFEST).write_text(json.dumps({**tree, "files": {"../../../secret": tree["files"]["a.txt"]}}))
    with pytest.raises(ConnectionError):
        remote.send("part", Path(made.path))
    assert not remote.holds("part", made.fingerprint)


def test_what_arrived_is_not_read_again(remote: Remote, tmp_path: Path) -> None:
    """property: its checksums were compared when it came; changes are found as in a stage that was made here."""
    machine(tmp_path, "one", remote).stage("part", "n", 1, build)
    other = machine(tmp_path, "other", remote)
    found = other.stage("part", "n", 1, never)
    assert not any(path.suffix == ".fetched" for path in other.root.rglob("*"))
    found.file("a.txt").write_text("contenT")
    assert other.stage("part", "n", 1, never).file("a.txt").read_text() == "content"


def test_a_damaged_stage_is_fetched_rather_than_computed(remote: Remote, tmp_path: Path) -> None:
    """resume: what is damaged here is whole there."""
    store = machine(tmp_path, "one", remote)
    store.stage("part", "n", 1, build).file("a.txt").unlink()
    assert whole(store.stage("part", "n", 1, never))


def test_what_could_not_be_sent_is_sent_when_it_is_opened(
    weak: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """resume: a failure half-way through an upload costs nothing here, and shows nobody half a stage."""
    remote = Remote("weak://bucket")
    sent: list[str] = []

    def second(doing: str, path: str) -> None:
        sent.append(path)
        if doing == "put" and path.endswith("b.txt"):
            raise TimeoutError("no answer")

    weak.setattr(Weak, "fails", staticmethod(second))
    store = machine(tmp_path, "one", remote)
    made = store.stage("part", "n", 1, build)
    assert whole(made) and "part 'n': kept here, not sent: no answer" in caplog.text
    assert any(path.endswith("a.txt") for path in sent) and not remote.holds("part", made.fingerprint)
    weak.setattr(Weak, "fails", staticmethod(lambda doing, path: None))
    assert store.stage("part", "n", 1, never).cached
    assert whole(machine(tmp_path, "other", remote).stage("part", "n", 1, never))


@pytest.mark.parametrize("doing", ["look", "get"])
def test_an_outage_costs_sharing_alone(
    weak: pytest.MonkeyPatch, doing: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """contract: what cannot be looked for or fetched is computed here, and a warning says so."""
    machine(tmp_path, "one", Remote("weak://bucket")).stage("part", "n", 1, build)

    def fails(now: str, path: str) -> None:
        if now == doing:
            raise RuntimeError("the line is cut")

    weak.setattr(Weak, "fails", staticmethod(fails))
    other = machine(tmp_path, "other", Remote("weak://bucket"))
    with pytest.raises(StageNotFound):
        other.as_read_only().stage("part", "n", 1, never)
    made = other.stage("part", "n", 1, build)
    assert whole(made) and not made.cached and "the line is cut" in caplog.text
    assert not list(other.root.rglob("*.fetched"))


def test_a_fetch_that_fails_leaves_a_build_to_be_continued(weak: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """resume: what was computed before the crash is still there for the build that takes the place of the fetch."""
    other = machine(tmp_path, "other", Remote("weak://bucket"))

    def fails(work: Path) -> dict[str, Any]:
        (work / "half.txt").write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        other.stage("part", "n", 1, fails)
    made = machine(tmp_path, "one", None).stage("part", "n", 1, build)
    Remote("weak://bucket").send("part", Path(made.path))

    def cut(doing: str, path: str) -> None:
        if doing == "get":
            raise RuntimeError("the line is cut")

    weak.setattr(Weak, "fails", staticmethod(cut))
    assert (
        other.stage("part", "n", 1, lambda work: {"found": (work / "half.txt").read_text()}).metrics["found"] == "half"
    )


def test_a_full_disk_is_an_error_of_this_machine(weak: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """contract: it is neither taken for an outage nor for damage."""
    machine(tmp_path, "one", Remote("weak://bucket")).stage("part", "n", 1, build)

    def full(doing: str, path: str) -> None:
        if doing == "get":
            raise OSError(28, "No space left on device")

    weak.setattr(Weak, "fails", staticmethod(full))
    with pytest.raises(OSError, match="No space left"):
        machine(tmp_path, "other", Remote("weak://bucket")).stage("part", "n", 1, build)


def test_two_machines_that_send_at_once_are_not_mixed(weak: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """property: of other bytes under one fingerprint, sent in each other's middle, one machine's are there, whole."""
    remote, sending = Remote("weak://bucket"), []
    one, other = (machine(tmp_path, name, None) for name in ("one", "other"))

    def text(content: str) -> Callable[[Path], dict[str, Any]]:
        def write(work: Path) -> dict[str, Any]:
            for name in ("first.txt", "second.txt"):
                (work / name).write_text(content)
            return {}

        return write

    mine, theirs = one.stage("part", "n", 1, text("mine")), other.stage("part", "n", 1, text("theirs"))

    def between(doing: str, path: str) -> None:
        if doing == "put" and path.endswith("second.txt") and not sending:
            sending.append(path)
            remote.send("part", Path(theirs.path))

    weak.setattr(Weak, "fails", staticmethod(between))
    remote.send("part", Path(mine.path))
    found = machine(tmp_path, "third", remote).stage("part", "n", 1, never)
    assert sending and [found.file(f"{name}.txt").read_text() for name in ("first", "second")] == ["mine", "mine"]


def test_errors_of_storage_are_told_apart(remote: Remote, weak: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """contract: what is not there is no outage, and the other way round."""
    assert not remote.holds("part", "none")
    with pytest.raises(Damaged):
        remote.fetch("part", "none", tmp_path / "here")

    def fails(doing: str, path: str) -> None:
        raise PermissionError("not yours\nand more")

    weak.setattr(Weak, "fails", staticmethod(fails))
    with pytest.raises(Unreachable, match=r"^not yours$"):
        Remote("weak://bucket").holds("part", "none")


def test_a_check_leaves_nothing(remote: Remote) -> None:
    """contract: an address that may be read and changed passes."""
    remote.check()
    fs, root = opened(remote)
    assert fs.find(root) == []


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("bucket/prefix", "got 'bucket/prefix'"),
        ("s4://bucket", "got 's4://bucket': Protocol not known: s4"),
        ("sftp://me:secret@host/x", "the package that fsspec opens sftp:// with to be installed, got: .*paramiko"),
        ("file:///dev/null/x", "got 'file:///dev/null/x': .*Not a directory"),
        ("weak://me:secret@host/x", r"got 'weak://me:\*\*\*@host/x': not yours"),
    ],
)
def test_an_address_that_cannot_be_used_is_named(address: str, problem: str, weak: pytest.MonkeyPatch) -> None:
    """contract: one line that names the setting, without a password."""

    def fails(doing: str, path: str) -> None:
        raise PermissionError("not yours")

    weak.setattr(Weak, "fails", staticmethod(fails))
    weak.setitem(sys.modules, "paramiko", None)
    with pytest.raises(InputError, match=f"^DISTILLERY_REMOTE: expected .*{problem}") as caught:
        Remote(address).check()
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)
