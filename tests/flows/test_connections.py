"""Wrong addresses of the servers: one line that names the setting and the reason."""

import io
from pathlib import Path
from typing import Any

import mlflow
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console

from distillery.config.config_file import parse
from distillery.errors import InputError
from distillery.flows.connections import check_prefect
from distillery.flows.environment import Places
from distillery.flows.servers import ui
from distillery.flows.servers.doctor import examine
from distillery.flows.tracking.runs import Tracker, connect

NOBODY = "127.0.0.1:1"


def test_a_prefect_server_that_does_not_answer_is_named() -> None:
    """Contract of error messages."""
    said = rf"^PREFECT_API_URL: .*'http://{NOBODY}/api', got: .*refused$"
    with temporary_settings({PREFECT_API_URL: f"http://{NOBODY}/api"}), pytest.raises(InputError, match=said):
        check_prefect()


def test_a_prefect_server_that_answers_is_fine(prefect_server: str) -> None:
    """Contract: its address, and none where every run starts a server of its own."""
    assert check_prefect() == prefect_server
    with temporary_settings({PREFECT_API_URL: None}):
        assert check_prefect() is None


@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg"])
def test_a_store_that_does_not_answer_is_named_without_its_password(
    scheme: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract of error messages, for a server and for a database that is used without one."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://mlflow:hunter2@{NOBODY}/mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=rf"^MLFLOW_TRACKING_URI: .*mlflow:\*\*\*@{NOBODY}.*[Rr]efused") as stopped:
        connect(Places.from_environment())
    assert "hunter2" not in str(stopped.value) and "\n" not in str(stopped.value)


def test_the_doctor_and_links_show_no_login(
    home: Path, prefect_server: str, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """contract: neither what is printed of a server that answers, nor the address of a run's page."""
    stream = io.StringIO()
    with temporary_settings({PREFECT_API_URL: prefect_server.replace("://", "://me:hunter2@")}):
        assert examine(Console(file=stream, width=200))
    assert f"Prefect server: {prefect_server.replace('://', '://me:***@')}" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()

    monkeypatch.setenv("MLFLOW_TRACKING_URI", Places.from_environment().tracking_uri)  # set back afterwards
    tracker = Tracker(Places.from_environment(), "x")
    with tracker.pipeline_run(parse(tree)) as run:
        mlflow.set_tracking_uri("https://me:hunter2@host/mlflow?token=open-sesame")
        assert tracker.url(run).startswith("https://host/mlflow/#/experiments/")


def test_an_error_on_a_run_holds_no_secret(home: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: the tag of a failed run in MLflow."""
    monkeypatch.setenv("DISTILLERY_REMOTE", "sftp://me:hunter2@host/x")
    tracker = Tracker(Places.from_environment(), "x")
    with pytest.raises(ValueError, match="hunter2"), tracker.pipeline_run(parse(tree)) as run:
        raise ValueError("sftp://me:hunter2@host/x did not answer")
    told = tracker.client.get_run(run.id).data.tags["error"]
    assert told == "ValueError: sftp://me:***@host/x did not answer"


def test_the_page_of_mlflow_is_started_without_a_password_on_its_command_line(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """contract: every user of a machine can read the command lines of all processes."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:hunter2@host/mlflow")
    assert "hunter2" not in " ".join(ui.mlflow_command())
    assert ui.environment()["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:hunter2@host/mlflow"


def test_a_database_without_a_server_keeps_artifacts_at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract of places: only a server has artifacts of its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg://mlflow@database/mlflow")
    assert Places.from_environment().artifacts == (home / "mlflow" / "artifacts").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.com")
    assert Places.from_environment().artifacts is None
