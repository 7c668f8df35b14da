"""Workers that Prefect starts on request, from a process work pool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import get_client

from distillery.errors import InputError
from distillery.flows.environment import Places
from distillery.flows.workers import shared_folder
from distillery.flows.workers.shared_folder import SharedWork, check_workers, open_workers

ROOT, HERE = Path(__file__).parents[3], Path(__file__).parent


@pytest.fixture
def prefect(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, with the server of the tests."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]))

    def run(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "prefect", *arguments]

    return run


@pytest.fixture
def pool(prefect: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the pool, after the README's commands."""
    for arguments in (
        ("work-pool", "create", "distillery", "--type", "process", "--overwrite"),
        ("--no-prompt", "deploy", "--name", "worker"),
    ):
        subprocess.run(prefect(*arguments), cwd=ROOT, check=True, capture_output=True)
    started = subprocess.Popen(
        prefect("worker", "start", "--pool", "distillery", "--limit", "2"),
        cwd=ROOT,
        env={**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        children = psutil.Process(started.pid).children(recursive=True)
        for process in (started, *children):
            process.kill()
        started.wait()


def test_without_the_deployment_it_is_named(prefect: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: one error, before anything is computed, that says what to give; shared:0 needs no Prefect worker."""
    monkeypatch.setattr(shared_folder, "DEPLOYMENT", "distillery-worker/none")
    monkeypatch.setenv("DISTILLERY_WORKERS", "shared:2")
    with pytest.raises(InputError, match=r"needs the deployment 'distillery-worker/none'.*deploy --name worker"):
        open_workers(Places.from_environment())
    monkeypatch.setenv("DISTILLERY_WORKERS", "shared:0")
    assert isinstance(open_workers(Places.from_environment()), SharedWork)
    for wrong in ("shared:", "shared:x", "0", "2:shared", "dask:", "dask:0", "dask:x", "dusk:2"):
        monkeypatch.setenv("DISTILLERY_WORKERS", wrong)
        with pytest.raises(InputError, match=f"expected a number of processes, .*dask:tcp://host:port, got '{wrong}'"):
            Places.from_environment()


def test_prefect_starts_workers_and_replaces_the_dead(
    pool: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """resume: the only worker is killed in the middle of a job; a new one is started and does it."""
    import calls

    monkeypatch.setattr(shared_folder, "LOOK_SECONDS", 0.5)
    check_workers()
    marker = tmp_path / "marker"
    with SharedWork(1, tmp_path) as work:
        assert work.call(calls.add, 1, 2) == 3
        job = work._put(calls.stay, (marker,), {})
        while not marker.exists():
            time.sleep(0.05)
        os.kill(int(marker.read_text()), signal.SIGKILL)
        assert work._wait(job, None) == "done by another"
        runs = list(work._runs)
    with get_client(sync_client=True) as client:
        while not (state := client.read_flow_run(runs[0]).state) or not state.is_final():
            time.sleep(0.1)
    assert state.is_completed()  # it ended with its owner
