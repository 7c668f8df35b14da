"""Records of runs: which stages they used, and whether they are still at work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distillery.config_file import load
from distillery.store import Handle
from flows import records
from flows.places import Places
from flows.tracking import Tracker

HANDLES = [Handle("data", "rows", "/x", "1" * 24), Handle("teachers", "one", "/y", "2" * 24)]
CHILD = """
import os, sys
from pathlib import Path
from distillery.store import Handle
from flows import records
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


def test_a_dead_run_is_gone_on_with_whatever_has_its_number_now(home: Path, tiny: Path) -> None:
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
