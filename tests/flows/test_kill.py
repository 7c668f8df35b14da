"""Resume after SIGKILL: the command is killed in four stages, and the last run reports as an undisturbed one."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reports import without_timing

from distillery.stages.report.record import Report

# Imports are most of what the command costs here. So one process imports, and every run is a fork of it that does what
# the command does; whatever a run opens or starts is its own.
FORKS = """
import importlib, json, os, sys, threading
modules = "torch._dynamo onnxscript sklearn.ensemble matplotlib.pyplot alembic.command"
for name in ("distillery.flows.flow", *modules.split()):
    importlib.import_module(name)
import torch
from distillery.flows.cli import main

def run(home, config):
    os.environ["DISTILLERY_HOME"] = home
    os.chdir(home)
    torch.set_num_threads(1)  # as in the process of the tests, whose run has to give the same figures
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    code = 1
    try:
        main(["run", config])
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)

for line in sys.stdin:
    assert threading.active_count() == 1
    child = os.fork()
    if child == 0:
        run(*json.loads(line))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Commands:
    """Runs of the command, each in a process of its own."""

    def __init__(self, tiny: Path, forks: subprocess.Popen[str]) -> None:
        self.tiny, self.forks = tiny, forks

    def start(self, home: Path) -> int:
        """The process id of a run."""
        home.mkdir(exist_ok=True)
        assert self.forks.stdin is not None
        self.forks.stdin.write(json.dumps([str(home), str(self.tiny)]) + "\n")
        self.forks.stdin.flush()
        return self._told()

    def _told(self) -> int:
        assert self.forks.stdout is not None
        return int(self.forks.stdout.readline())

    def kill_when(self, reached: Callable[[], bool], home: Path) -> None:
        """A run that ends where something is reached."""
        process = self.start(home)
        while not reached():
            assert Path(f"/proc/{process}/cmdline").read_bytes(), f"it ended before the point was reached: {log(home)}"
            time.sleep(0.02)
        os.kill(process, signal.SIGKILL)
        assert self._told() == -signal.SIGKILL

    def finish(self, home: Path) -> Report:
        """The report of a run."""
        self.start(home)
        assert self._told() == 0, log(home)
        return Report.read(home / "runs" / "tiny")


def log(home: Path) -> str:
    """The end of what runs in this home have printed."""
    return (home / "log").read_text()[-3000:]


@contextmanager
def commands(tiny: Path, server: str) -> Iterator[Commands]:
    """A process that runs the command."""
    environment = {**os.environ, "DISTILLERY_WORKERS": "1", "PREFECT_API_URL": server}
    command = [sys.executable, "-c", FORKS]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forks:
        try:
            yield Commands(tiny, forks)
        finally:
            forks.kill()


def _finished_parts(home: Path, stage: str) -> dict[str, int]:
    """Finished directories of a stage, with the time at which each was finished."""
    found = (home / ".distillery" / stage).glob("*/manifest.json")
    return {str(p): p.stat().st_mtime_ns for p in found if not p.parent.name.endswith(".part")}


def _trials(home: Path) -> int:
    """Finished trials of all studies; a line of the journal that is being written is none."""
    try:
        lines = (home / ".distillery" / "optuna.journal").read_bytes().splitlines(keepends=True)
    except OSError:
        return 0
    logs = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return sum("record" in entry.get("user_attrs", {}) for entry in logs)


def _is_registered(home: Path) -> bool:
    try:
        with sqlite3.connect(f"file:{home / 'mlflow' / 'mlflow.db'}?mode=ro", uri=True) as database:
            return bool(database.execute("SELECT count(*) FROM registered_models").fetchone()[0])
    except sqlite3.Error:
        return False


def test_a_killed_run_goes_on_where_it_stopped(
    tmp_path: Path,
    tiny: Path,
    tiny_run: tuple[Path, Report],
    new_home: Callable[[Path], Path],
    prefect_server: str,
) -> None:
    """Resume: nothing finished is computed twice, and the report equals an undisturbed run's, latencies aside."""
    killed, (_, undisturbed) = new_home(tmp_path / "killed"), tiny_run
    finished: dict[str, int] = {}
    points: list[Callable[[], bool]] = [
        lambda: len(_finished_parts(killed, "teachers")) >= 1,
        lambda: len(_finished_parts(killed, "logits")) >= 2,
        lambda: _trials(killed) >= 2,
        lambda: _is_registered(killed),
    ]
    with commands(tiny, prefect_server) as runs:
        for reached in points:
            runs.kill_when(reached, killed)
            for stage in ("data", "teachers", "logits", "ensemble", "search", "students", "evaluation", "export"):
                finished = {**_finished_parts(killed, stage), **finished}
        report = runs.finish(killed)
    now = {k: v for stage in (killed / ".distillery").iterdir() for k, v in _finished_parts(killed, stage.name).items()}
    assert {k: now.get(k) for k in finished} == finished
    assert without_timing(report) == without_timing(undisturbed)
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
        logged = len(report.search.trials) + len(report.baseline_search.trials)
        assert (orphans.fetchone()[0], trials.fetchone()[0]) == (0, logged)
