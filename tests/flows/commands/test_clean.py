"""Records of runs, and `distillery clean`, which goes by them: the stages of the last runs and of versions stay."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distillery.config.config_file import load
from distillery.errors import InputError
from distillery.flows.commands.clean import check, clean
from distillery.flows.environment import Places
from distillery.flows.tracking import records
from distillery.flows.tracking.runs import Tracker
from distillery.store import Handle, Store


def made(places: Places, stage: str, key: str) -> Handle:
    """A finished stage that was made two days ago."""

    def build(work: Path) -> dict[str, Any]:
        (work / "file").write_text(key)
        return {}

    handle = Store(places.store).stage(stage, key, key, build)
    for path in Path(handle.path).parent.glob(f"{handle.fingerprint}*"):
        os.utime(path, (0, 0))
    return handle


def ran(places: Places, name: str, number: int, handles: list[Handle], *, ended: bool = True) -> Path:
    """The record of a run that used these stages."""
    file = records.file_of(places.runs, name, str(number))
    record = records.begin(file)
    with suppress(ZeroDivisionError), record.held():
        record.add(handles)
        if not ended:
            raise ZeroDivisionError
    os.utime(file, (number, number))
    return file


def left(places: Places) -> set[str]:
    """Keys of the stages that are there."""
    return {file.read_text() for file in places.store.glob("*/*/file")}


def cleaned(places: Places, client: Any, **options: Any) -> str:
    """What is printed."""
    shown = StringIO()
    clean(places, client, Console(file=shown, width=100), **options)
    return shown.getvalue()


class NoModels:
    """A registry without models."""

    def search_registered_models(self, max_results: int) -> list[Any]:
        """None."""
        return []


def test_the_last_runs_of_each_experiment_keep_their_stages(home: Path) -> None:
    """property: those that ended well are counted, what failed since is kept, too; a dry run says the same."""
    places = Places.from_environment()
    stages = {key: made(places, "teachers", key) for key in ("1", "2", "3", "4", "shared", "other", "nobody's")}
    ran(places, "night", 1, [stages["1"], stages["shared"]])
    failed = ran(places, "night", 2, [stages["2"]], ended=False)
    ran(places, "night", 3, [stages["3"], stages["shared"]])
    ran(places, "night", 4, [stages["4"]], ended=False)
    ran(places, "other", 5, [stages["other"]])
    told = cleaned(places, NoModels(), keep=1, dry_run=True)
    assert len(left(places)) == 7 and failed.exists()
    assert cleaned(places, NoModels(), keep=2) == told.replace("3 of 7", "1 of 7")
    assert left(places) == {"1", "2", "3", "4", "shared", "other"} and failed.exists()
    told = cleaned(places, NoModels(), keep=1)
    assert "teachers   2 of 6 stages, 0 unfinished, " in told and told.splitlines()[-1].startswith("in all ")
    assert left(places) == {"3", "4", "shared", "other"} and not failed.exists()


def test_a_run_at_work_keeps_its_stages(home: Path) -> None:
    """property: however old its record is; also stages that it has made and not noted yet."""
    places = Places.from_environment()
    used, own, other = (made(places, "data", key) for key in ("used", "own", "other"))
    file = records.file_of(places.runs, "night", "0")
    record = records.begin(file)
    with record.held():
        record.add([used])
        file.write_text(file.read_text().replace("began 1", "began "))  # 1.7e9 -> 0.7e9
        for path in Path(other.path).parent.glob(f"{other.fingerprint}*"):
            os.utime(path, (1e9, 1e9))
        os.utime(file, (0, 0))
        ran(places, "night", 1, [own])
        cleaned(places, NoModels(), keep=1)
        assert left(places) == {"used", "own", "other"} and file.exists()
    os.utime(file, (0, 0))
    cleaned(places, NoModels(), keep=1)
    assert left(places) == {"own"} and not file.exists()


def test_versions_keep_what_they_were_made_from(model: Any) -> None:
    """property: the champion, those before it and the candidate; a version that was only ever rejected does not."""
    places = Places.from_environment()
    keys = ("first champion", "rejected", "champion", "candidate")
    exports = {key: made(places, "export", f"{key} of {model.name}") for key in keys}
    rows = {key: made(places, "data", f"rows of {key} of {model.name}") for key in keys}
    for quality, key in zip((0.1, -1.0, 0.2, -1.0), keys, strict=True):
        version = model.version(quality)
        model.client.set_model_version_tag(model.name, str(version), "distillery.fingerprint", exports[key].fingerprint)
        model.client.set_model_version_tag(model.name, str(version), "data", rows[key].fingerprint)
        model.propose(version)
    model.client.set_registered_model_alias(model.name, "candidate", "4")
    cleaned(places, model.client, keep=1)
    assert left(places) == {handle.name for table in (exports, rows) for handle in table.values()} - {
        f"rejected of {model.name}",
        f"rows of rejected of {model.name}",
    }


def test_what_cannot_be_known_is_refused(home: Path) -> None:
    """contract: a report without a record of its stages is named, and nothing is removed."""
    places = Places.from_environment()
    made(places, "data", "mine")
    (places.runs / "old").mkdir(parents=True)
    (places.runs / "old" / "report.json").write_text("{}")
    with pytest.raises(InputError, match=r"report of 'old' rests on, .* give `distillery run` for it once more"):
        cleaned(places, NoModels(), keep=1)
    with pytest.raises(InputError, match="--keep: expected a number of runs, 1 or more, got 0"):
        cleaned(places, NoModels(), keep=0)
    assert left(places) == {"mine"}


def test_a_check_names_what_is_damaged(home: Path) -> None:
    """contract: one line for each stage; none where all is whole."""
    places, shown = Places.from_environment(), StringIO()
    handle = made(places, "data", "mine")
    made(places, "data", "other")
    console = Console(file=shown)
    assert check(places, console) and shown.getvalue() == ""
    handle.file("file").write_text("evil")
    assert not check(places, console) and shown.getvalue() == f"damaged: {handle.path}\n"


HANDLES = [Handle("data", "rows", "/x", "1" * 24), Handle("teachers", "one", "/y", "2" * 24)]
CHILD = """
import os, sys
from pathlib import Path
from distillery.store import Handle
from distillery.flows.tracking import records
with records.begin(Path(sys.argv[1])).held() as record:
    record.add([Handle("data", "rows", "/x", "1" * 24)])
    print("at work", flush=True)
    sys.stdin.readline()
"""


def test_a_record_says_how_its_run_stands(tmp_path: Path) -> None:
    """contract: at work, dead or ended well, by a real process that is killed and one that goes on with its run."""
    file = records.file_of(tmp_path, "night", "run")
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"at work\n"
        assert records.take_over(file) is None
        (noted,) = records.noted(tmp_path / "night")
        assert noted.at_work and not noted.ended and noted.stages == {f"data/{'1' * 24}"}
    finally:
        child.kill()
        child.communicate()
    (noted,) = records.noted(tmp_path / "night")
    assert not noted.at_work and not noted.ended
    record = records.take_over(file)
    assert record is not None
    with record.held():
        record.add(HANDLES)
    (noted,) = records.noted(tmp_path / "night")
    assert not noted.at_work and noted.ended
    assert noted.stages == {f"data/{'1' * 24}", f"teachers/{'2' * 24}"}
    assert records.take_over(tmp_path / "none") is None and records.noted(tmp_path / "none") == []


def test_a_dead_run_is_gone_on_with_whatever_has_its_number_now(client: Any, tiny: Path) -> None:
    """resume: by its record alone, not by a process number or a host; a run that lives, or is elsewhere, is let be."""
    config = load(tiny, [])
    opened: list[Any] = []

    def begun() -> tuple[Tracker, str]:
        tracker = Tracker(Places.from_environment(), config.name)
        opened.append(tracker.pipeline_run(config))
        return tracker, opened[-1].__enter__().id

    dead, first = begun()
    for tag, value in (("pid", "1"), ("host", "a container of yesterday")):
        dead.client.set_tag(first, tag, value)
    _, second = begun()
    assert second != first
    assert dead.record is not None
    dead.record._stream.close()  # as the kernel does for a process that dies
    again, third = begun()
    assert third == first and again.client.get_run(first).data.tags["pid"] != "1"
    _, fourth = begun()
    assert fourth not in (first, second)
    records.file_of(Places.from_environment().runs, config.name, fourth).unlink()
    _, fifth = begun()
    assert fifth not in (first, second, fourth)
    for context in opened[1:]:
        context.__exit__(None, None, None)
    with pytest.raises(ValueError, match="closed file"):
        opened[0].__exit__(None, None, None)
