"""Who is told when a deployed run fails: a real flow, a real server, and a real webhook on loopback."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Failed

from distillery.errors import InputError
from distillery.flows.flow import scheduled
from distillery.flows.servers.notify import message


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What was posted to DISTILLERY_NOTIFY_URL."""
    posted: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("DISTILLERY_NOTIFY_URL", f"http://127.0.0.1:{server.server_port}/secret")
    yield posted
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_failed_run_is_told_once_with_reason_and_links(
    home: Path, tiny: Path, prefect_server: str, webhook: list[bytes]
) -> None:
    """Contract of the message: the text that Slack and Mattermost take, with the run, why, and both pages."""
    state = scheduled(str(tiny), [], "release", return_state=True)
    assert state.is_failed()
    (body,) = webhook
    told = json.loads(body)
    assert set(told) == {"text"}
    first, prefect, mlflow = told["text"].splitlines()
    assert first.startswith(f"{tiny}: Failed. ") and "data 'make_classification': expected it to be finished" in first
    address = prefect_server.removesuffix("/api")
    assert prefect == f"Prefect: {address}/runs/flow-run/{state.state_details.flow_run_id}"
    assert mlflow.startswith("MLflow: http://127.0.0.1:5000/#/experiments/1/runs/")


def test_a_message_that_cannot_be_sent_is_logged_and_changes_nothing(
    home: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Contract of hooks: nobody listens, and the run still fails for its own reason; the log keeps the secret."""
    monkeypatch.setenv("DISTILLERY_NOTIFY_URL", "http://127.0.0.1:1/secret")
    caplog.set_level(logging.ERROR, "prefect.flow_runs")
    state = scheduled("nowhere.yaml", return_state=True)
    assert state.is_failed() and "nowhere.yaml" in (state.message or "")
    (said,) = [record.getMessage() for record in caplog.records if "DISTILLERY_NOTIFY_URL" in record.getMessage()]
    assert "nobody was told" in said and "URLError" in said and "secret" not in caplog.text


def test_a_wrong_address_is_named_before_anything_runs(
    home: Path, tiny: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract of error messages: the setting, and not its value, which may be a secret."""
    for wrong in ("hooks.example.com/secret", "http://hooks.example.com/T0 00/secret"):
        monkeypatch.setenv("DISTILLERY_NOTIFY_URL", wrong)
        with pytest.raises(InputError, match=r"^DISTILLERY_NOTIFY_URL: expected an address") as stopped:
            scheduled(str(tiny))
        assert "secret" not in str(stopped.value) and not (home / ".distillery").exists()


def test_the_message_holds_no_secret_and_calls_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """golden: a password of the environment is masked, and a chat's own signs are text."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@host")
    run = FlowRun(flow_id=uuid4(), name="nightly")
    told = message(run, Failed(message="class '<!channel>': http://me:hunter2@host did not answer"))
    assert told.startswith("nightly: Failed. class '&lt;!channel&gt;': http://me:***@host did not answer")
