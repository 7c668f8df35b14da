"""Resume after SIGKILL: the command is killed in four stages, and the last run reports as an undisturbed one."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillery.report import without_timing

COMMAND = [sys.executable, "-m", "flows.cli", "run"]


def _start(tiny: Path, home: Path, server: str) -> subprocess.Popen[bytes]:
    settings = {"DISTILLERY_HOME": str(home), "DISTILLERY_WORKERS": "1", "PREFECT_API_URL": server}
    with (home / "log").open("a") as log:
        return subprocess.Popen([*COMMAND, str(tiny)], env={**os.environ, **settings}, stdout=log, stderr=log, cwd=home)


def _kill_when(reached: Callable[[], bool], tiny: Path, home: Path, server: str) -> None:
    process = _start(tiny, home, server)
    while not reached():
        assert process.poll() is None, f"it ended before the point was reached: {(home / 'log').read_text()[-3000:]}"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def _finish(tiny: Path, home: Path, server: str) -> dict[str, Any]:
    process = _start(tiny, home, server)
    assert process.wait() == 0, (home / "log").read_text()[-3000:]
    report: dict[str, Any] = json.loads((home / "runs" / "tiny" / "report.json").read_text())
    return report


def _finished_parts(home: Path, stage: str) -> dict[str, int]:
    """Finished directories of a stage, with the time at which each was finished."""
    found = (home / ".distillery" / stage).glob("*/manifest.json")
    return {str(p): p.stat().st_mtime_ns for p in found if not p.parent.name.endswith(".part")}


def _trials(home: Path) -> int:
    try:
        with sqlite3.connect(f"file:{home / '.distillery' / 'optuna.db'}?mode=ro", uri=True) as database:
            return int(database.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0])
    except sqlite3.Error:
        return 0


def _is_registered(home: Path) -> bool:
    try:
        with sqlite3.connect(f"file:{home / 'mlflow' / 'mlflow.db'}?mode=ro", uri=True) as database:
            return bool(database.execute("SELECT count(*) FROM registered_models").fetchone()[0])
    except sqlite3.Error:
        return False


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, tiny: Path, prefect_server: str) -> None:
    """Resume: nothing finished is computed twice, and the report equals an undisturbed run's, latencies aside."""
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    killed.mkdir()
    undisturbed.mkdir()
    finished: dict[str, int] = {}
    points: list[tuple[str, Callable[[], bool]]] = [
        ("teachers", lambda: len(_finished_parts(killed, "teachers")) >= 1),
        ("logits", lambda: len(_finished_parts(killed, "logits")) >= 2),
        ("search", lambda: _trials(killed) >= 2),
        ("release", lambda: _is_registered(killed)),
    ]
    for _, reached in points:
        _kill_when(reached, tiny, killed, prefect_server)
        for stage in ("data", "teachers", "logits", "ensemble", "search", "students", "evaluation", "export"):
            finished = {**_finished_parts(killed, stage), **finished}
    report = _finish(tiny, killed, prefect_server)
    now = {k: v for stage in (killed / ".distillery").iterdir() for k, v in _finished_parts(killed, stage.name).items()}
    assert {k: now.get(k) for k in finished} == finished
    assert without_timing(report) == without_timing(_finish(tiny, undisturbed, prefect_server))
    with sqlite3.connect(killed / "mlflow" / "mlflow.db") as database:
        versions = database.execute("SELECT count(*) FROM model_versions").fetchone()[0]
        running = database.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING' AND lifecycle_stage = 'active'")
        assert (versions, running.fetchone()[0]) == (1, 0)
        orphans = database.execute(
            "SELECT count(*) FROM tags JOIN runs child ON child.run_uuid = tags.run_uuid "
            "LEFT JOIN runs parent ON parent.run_uuid = tags.value AND parent.lifecycle_stage = 'active' "
            "WHERE tags.key = 'mlflow.parentRunId' AND child.lifecycle_stage = 'active' AND parent.run_uuid IS NULL"
        )
        trials = database.execute("SELECT count(*) FROM tags WHERE key = 'role' AND value = 'trial'")
        logged = len(report["search"]["trials"]) + len(report["baseline_search"]["trials"])
        assert (orphans.fetchone()[0], trials.fetchone()[0]) == (0, logged)
