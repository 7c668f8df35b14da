"""Wrong addresses of the servers: one line that names the setting and the reason."""

from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from distillery.errors import InputError
from flows.places import Places
from flows.servers import check_prefect
from flows.tracking import connect

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


def test_a_database_without_a_server_keeps_artifacts_at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract of places: only a server has artifacts of its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg://mlflow@database/mlflow")
    assert Places.from_environment().artifacts == (home / "mlflow" / "artifacts").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.com")
    assert Places.from_environment().artifacts is None
