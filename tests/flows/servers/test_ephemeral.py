"""The Prefect server that a run brings along: real processes and a database of their own."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

RUN = """
import sys, time
from distillery.flows.servers.ephemeral import prefect_server
with prefect_server() as ready:
    from prefect import flow, task

    @task(name="part")
    def part():
        return 1

    @flow(name="whole")
    def whole(stay):
        part.submit().result()
        print("at work", flush=True)
        time.sleep(stay)

    ready()
    whole(float(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One that names no server, with an empty database of Prefect's."""
    settings = {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")), "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    return {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | settings


def _start(environment: dict[str, str], stay: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(stay)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def _ends(process: psutil.Process) -> bool:
    """Whether it ends within a minute; its parent need not have asked how, which psutil's own `wait` waits for."""
    for _ in range(1200):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    process.kill()
    return False


def test_a_run_and_its_tasks_are_kept(environment: dict[str, str]) -> None:
    """Contract of Prefect's pages: what a server of its own saw of a run is in the database when the run has ended."""
    with _start(environment, 0) as run:
        assert run.wait() == 0
    with sqlite3.connect(Path(environment["PREFECT_HOME"]) / "prefect.db") as database:
        states = "SELECT name, state_type FROM flow_run UNION ALL SELECT task_key, state_type FROM task_run"
        found = [state for _, state in database.execute(states)]
        seen = {event for (event,) in database.execute("SELECT event FROM events")}
    assert found == ["COMPLETED", "COMPLETED"]
    assert {"prefect.flow-run.Completed", "prefect.task-run.Completed"} <= seen


def test_a_server_ends_with_a_run_that_is_killed(environment: dict[str, str]) -> None:
    """Resume: SIGKILL of the run leaves no server behind; ctrl-C reaches the run alone."""
    with _start(environment, 600) as run:
        assert run.stdout is not None and run.stdout.readline() == "at work\n"
        (server,) = psutil.Process(run.pid).children()
        assert os.getpgid(server.pid) != os.getpgid(run.pid)
        run.send_signal(signal.SIGKILL)
    assert _ends(server), "the server outlives the run"


def test_a_run_that_ends_before_its_server_begins_says_nothing_of_it(environment: dict[str, str]) -> None:
    """Contract of error messages: after the run's own line there is no traceback of a start that was cut short."""
    program = "from distillery.flows.servers.ephemeral import prefect_server\nwith prefect_server():\n    pass"
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")  # read until the server has ended, too


def test_no_server_stays_where_a_profile_names_one(environment: dict[str, str], prefect_server: str) -> None:
    """Contract: an address in Prefect's own settings is as good as one in the environment; the new server ends."""
    home = Path(environment["PREFECT_HOME"]) / "named"
    home.mkdir()
    (home / "profiles.toml").write_text(f'active = "ours"\n[profiles.ours]\nPREFECT_API_URL = "{prefect_server}"\n')
    with _start({**environment, "PREFECT_HOME": str(home)}, 600) as run:
        assert run.stdout is not None and run.stdout.readline() == "at work\n"
        (begun,) = psutil.Process(run.pid).children()
        try:
            assert _ends(begun), "the new server stays"
        finally:
            run.kill()
    assert not (home / "prefect.db").exists()
