"""A real Prefect server and a real sqlite MLflow for all tests of the flows."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import flows  # noqa: F401 - sets the environment before prefect is imported

os.environ["PREFECT_LOGGING_LEVEL"] = "CRITICAL"


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prefect server with its own database and all its services, for the length of the session."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
        temporary_settings,
    )

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    address = f"http://127.0.0.1:{port}/api"
    folder = tmp_path_factory.mktemp("prefect")
    settings = {"PREFECT_HOME": str(folder), "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log)
    try:
        _wait(f"{address}/health", server)
        changed = {
            PREFECT_API_URL: address,
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
            PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False,
        }
        with temporary_settings(changed):
            yield address
    finally:
        server.terminate()
        server.wait(30)


def _wait(health: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(720):
        assert server.poll() is None, "the Prefect server did not start"
        try:
            with urllib.request.urlopen(health, timeout=5):
                return
        except OSError:
            time.sleep(0.25)
    raise AssertionError("the Prefect server did not answer")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, with one worker so that trainings stay in this process."""
    monkeypatch.setenv("DISTILLERY_HOME", str(tmp_path))
    monkeypatch.setenv("DISTILLERY_WORKERS", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The config of a chain that takes seconds."""
    return Path(__file__).with_name("tiny.yaml")
