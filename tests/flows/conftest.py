"""A real Prefect server and a real sqlite MLflow for all tests of the distillery.flows."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from machine import running_postgres

import distillery.flows  # noqa: F401 - sets the environment before prefect is imported
from distillery.flows.environment import Places
from distillery.flows.tracking.history import Entry, read
from distillery.flows.tracking.lifecycle import transaction
from distillery.flows.tracking.registry import FINGERPRINT
from distillery.flows.tracking.runs import connect
from distillery.stages.promotion.decision import Decision, Outcome, decide
from distillery.stages.report.record import Report

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
    settings = {
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",  # none is used
        "PREFECT_UI_ENABLED": "false",
    }
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
        # A command that finds the address in the environment starts no server of its own.
        with temporary_settings(changed), pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREFECT_API_URL", address)
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


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Address of a database of a PostgreSQL server that ends with the tests."""
    with running_postgres() as server:
        server.ask("postgres", "CREATE ROLE distillery SUPERUSER LOGIN PASSWORD 'right'")
        server.ask("postgres", "CREATE DATABASE studies OWNER distillery")
        yield f"postgresql://distillery:right@127.0.0.1:{server.port}/postgres"


@contextmanager
def at_home(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """The environment of a home folder, with one worker so that trainings stay in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLERY_HOME", str(folder))
        patch.setenv("DISTILLERY_WORKERS", "1")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield patch


@pytest.fixture(scope="session")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """A function that gives a folder an empty database of MLflow's: a copy, since MLflow takes seconds to make one."""
    made = tmp_path_factory.mktemp("database")
    with at_home(made):
        connect(Places.from_environment())

    def give(folder: Path) -> Path:
        shutil.copytree(made, folder, dirs_exist_ok=True)
        return folder

    return give


@pytest.fixture
def home(tmp_path: Path, new_home: Callable[[Path], Path]) -> Iterator[Path]:
    """The home folder of this test, without runs and models."""
    with at_home(new_home(tmp_path)):
        yield tmp_path


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The config of a chain that takes seconds."""
    return Path(__file__).with_name("tiny.yaml")


@pytest.fixture(scope="session")
def tiny_run(prefect_server: str, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """(home, report) of one run of the tiny experiment, which began with nothing; tests that look at it share it."""
    from distillery.config.config_file import load
    from distillery.flows.flow import pipeline

    folder = tmp_path_factory.mktemp("tiny")
    with at_home(folder):
        report = pipeline(load(tiny))
        assert isinstance(report, Report)
        return folder, report


class Model:
    """A registered model whose versions have a known quality: the higher, the lower the NLL of every row."""

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name, self.qualities = client, name, [0.0]
        self.judged: list[tuple[int, int | None]] = []
        client.create_registered_model(name)

    def version(self, quality: float) -> int:
        """A new version."""
        self.qualities.append(quality)
        tags = {FINGERPRINT: f"export of {self.name} {len(self.qualities)}", "data": "rows of May"}
        return int(self.client.create_model_version(self.name, "file:///nowhere", tags=tags).version)

    def propose(self, version: int, rules: str = "gates") -> Decision:
        """What a run of the pipeline does with its student."""
        with transaction(self.client, Places.from_environment(), self.name) as mine:
            return mine.decide(version, rules, lambda champion: self._judge(version, champion))

    def _judge(self, version: int, champion: int | None) -> Decision:
        self.judged.append((version, champion))
        rival = None if champion is None else self._outcome(champion)
        return decide((), {}, self._outcome(version), rival, resamples=50, confidence=0.95)

    def _outcome(self, version: int) -> Outcome:
        return Outcome(f"version {version}", np.full(20, 1.0 - self.qualities[version]), np.ones(20))

    @property
    def aliases(self) -> tuple[int | None, int | None]:
        """(champion, previous)."""
        found = {a: int(v) for a, v in self.client.get_registered_model(self.name).aliases.items()}
        return found.get("champion"), found.get("previous")

    @property
    def history(self) -> list[tuple[str, int, int | None]]:
        """Action, version and over of every entry."""
        return [(e.action, e.version, e.over) for e in self.entries]

    @property
    def entries(self) -> list[Entry]:
        """The whole history."""
        return read(self.client.get_registered_model(self.name).tags)

    def tags(self, version: int) -> dict[str, str]:
        """Tags of a version."""
        return dict(self.client.get_model_version(self.name, str(version)).tags)


@pytest.fixture(scope="module")
def client(new_home: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Of one store for the tests of a file; each has its own registered model."""
    with at_home(new_home(tmp_path_factory.mktemp("home"))):
        yield connect(Places.from_environment())


@pytest.fixture
def model(client: Any, request: pytest.FixtureRequest) -> Model:
    """A registered model without versions."""
    return Model(client, request.node.name)
