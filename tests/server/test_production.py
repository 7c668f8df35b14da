"""docs/production.md, run as it stands: the servers, a night, the champion over HTTP, a backup, what may be wrong."""

import base64
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from machine import ROOT, Postgres, Shell, free_port, running_postgres, sections
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from scipy.special import softmax

from distillery.config.config_file import load
from distillery.errors import InputError
from distillery.flows.connections import check_prefect
from distillery.flows.environment import Places
from distillery.flows.tracking.runs import connect
from distillery.stages.data.preparation import read_source
from distillery.stages.evaluation.record import EvaluationResult
from distillery.stages.report.record import Report

pytestmark = pytest.mark.server

QUICK = Path(__file__).with_name("quick.yaml")
EXPERIMENTS = "/api/2.0/mlflow/experiments/search?max_results=1"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of this module's own."""
    with running_postgres() as running:
        yield running


@pytest.fixture(scope="module")
def shell(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell with the document's settings: other ports and folders, a quick experiment, every minute a night."""
    settings = {
        "DISTILLERY_CONFIG": str(QUICK),
        "DISTILLERY_MODEL": "quick",
        "DISTILLERY_CRON": "* * * * *",
        "DISTILLERY_WORKERS": "1",
        "PGPORT": str(postgres.port),
        "PSQL": postgres.psql,
        **{name: str(free_port()) for name in ("MLFLOW_PORT", "PREFECT_PORT", "SERVE_PORT")},
    }
    with Shell(tmp_path_factory.mktemp("state"), settings) as opened:
        opened.section("Settings")
        yield opened


@pytest.fixture(scope="module")
def servers(shell: Shell) -> dict[str, str]:
    """Both servers are up; addresses and passwords by the names that the document gives them."""
    for name in ("Databases", "MLflow", "Prefect"):
        shell.section(name)
    secrets = (shell.state / "secrets").read_text()
    assert (shell.state / "secrets").stat().st_mode & 0o77 == 0
    found = dict(line.removeprefix("export ").split("=") for line in secrets.splitlines())
    addresses = {name: f"http://127.0.0.1:{shell.settings[f'{name}_PORT']}" for name in ("MLFLOW", "PREFECT", "SERVE")}
    return found | addresses


@pytest.fixture(scope="module")
def night(shell: Shell, servers: dict[str, str]) -> dict[str, Any]:
    """The first run that the schedule started, after its end."""
    shell.section("Every night")
    wanted = {"flow_runs": {"deployment_id": {"is_null_": False}}, "sort": "EXPECTED_START_TIME_ASC"}
    login = f"distillery:{servers['PREFECT_PASSWORD']}"
    until = time.monotonic() + 180
    while time.monotonic() < until:
        runs = json.loads(_ask(f"{servers['PREFECT']}/api/flow_runs/filter", wanted, login))
        ended = [run for run in runs if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")]
        if ended:
            shell.run("prefect deployment schedule clear distillery-scheduled/nightly --accept-yes")
            return dict(ended[0])
        time.sleep(1)
    raise AssertionError(shell.logs())


@pytest.fixture(scope="module")
def served(shell: Shell, night: dict[str, Any]) -> str:
    """What the document's request to the champion was answered."""
    return shell.section("The champion over HTTP")


def _ask(address: str, body: Any = None, login: str | None = None, host: str | None = None) -> bytes:
    headers = {"Content-Type": "application/json"}
    if login is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    if host is not None:
        headers["Host"] = host
    request = urllib.request.Request(address, None if body is None else json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def _refusal(*request: Any, **more: Any) -> int:
    with pytest.raises(urllib.error.HTTPError) as refused:
        _ask(*request, **more)
    return refused.value.code


def test_mlflow_wants_a_login_and_a_name_it_knows(servers: dict[str, str]) -> None:
    """Contract of the login: 401 without and with a wrong password, 200 with; 403 under a foreign name."""
    address, user = servers["MLFLOW"] + EXPERIMENTS, f"distillery:{servers['MLFLOW_USER_PASSWORD']}"
    assert _refusal(address) == _refusal(address, login="distillery:wrong") == 401
    assert b"experiments" in _ask(address, login=user)
    assert _refusal(address, login=user, host="evil.example.com") == 403


def test_prefect_wants_a_login(servers: dict[str, str]) -> None:
    """Contract of the login."""
    address = f"{servers['PREFECT']}/api/flows/filter"
    assert _refusal(address, {}) == _refusal(address, {}, login="distillery:wrong") == 401
    assert _ask(address, {}, f"distillery:{servers['PREFECT_PASSWORD']}")


@pytest.mark.parametrize(("database", "tables"), [("mlflow", "experiments users"), ("prefect", "flow_run deployment")])
def test_both_servers_keep_everything_in_postgresql(
    database: str, tables: str, servers: dict[str, str], postgres: Postgres
) -> None:
    """Contract: their tables, logins included, belong to the role of that name, which no other database lets in."""
    owned = postgres.ask(database, f"SELECT tablename FROM pg_tables WHERE tableowner = '{database}'").split()
    assert set(tables.split()) < set(owned)
    allowed = f"SELECT datname FROM pg_database WHERE has_database_privilege('{database}', datname, 'CONNECT')"
    assert not {"mlflow", "prefect", "optuna"} - {database} & set(postgres.ask("postgres", allowed).split())


def test_wrong_logins_are_named(
    servers: dict[str, str], postgres: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Contract of error messages: the settings to mend, the reason, one line, and no password in it."""
    monkeypatch.setenv("DISTILLERY_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", servers["MLFLOW"])
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "distillery")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    with pytest.raises(InputError, match=r"^MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD: .* 401") as wrong:
        connect(Places.from_environment())
    assert "hunter2" not in str(wrong.value)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", servers["MLFLOW_USER_PASSWORD"])
    connect(Places.from_environment())
    uri = f"postgresql+psycopg://mlflow:hunter2@127.0.0.1:{postgres.port}/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=r"^MLFLOW_TRACKING_URI: .*password authentication failed") as wrong:
        connect(Places.from_environment())
    assert "hunter2" not in str(wrong.value)
    given = {PREFECT_API_URL: f"{servers['PREFECT']}/api", PREFECT_API_AUTH_STRING: "distillery:hunter2"}
    with temporary_settings(given), pytest.raises(InputError, match=r"^PREFECT_API_AUTH_STRING: .* 401$") as wrong:
        check_prefect()
    assert "hunter2" not in str(wrong.value)


def test_a_scheduled_run_completes(night: dict[str, Any], shell: Shell) -> None:
    """The run that the schedule made, not a person, went through the worker to the registry."""
    assert night["auto_scheduled"] and night["state_type"] == "COMPLETED", f"{night['state']}\n{shell.logs()}"
    report = Report.read(shell.state / "runs" / "quick")
    assert report.promotion.promoted, report.promotion


def test_a_pool_that_does_not_exist_is_named(night: dict[str, Any], shell: Shell) -> None:
    """Contract of error messages: deploying to it fails, and says which pool."""
    printed = shell.run("prefect --no-prompt deploy --name nightly --pool nowhere 2>&1 || echo refused")
    assert printed.rstrip().endswith("refused") and "work pool 'nowhere' which does not" in " ".join(printed.split())


def test_the_champion_answers_over_http_as_it_was_evaluated(served: str, shell: Shell, servers: dict[str, str]) -> None:
    """Reference: the probabilities of the evaluation, for raw test rows; and the document's own request is answered."""
    assert len(json.loads(served[served.index('{"predictions"') :])["predictions"]) == 5
    store = shell.state / ".distillery"
    (splits,), (evaluation,) = store.glob("data/*/splits.npz"), store.glob("evaluation/*/test_logits.npz")
    result = EvaluationResult.read(evaluation.parent)
    candidate = result.candidate
    with np.load(splits) as ids, np.load(evaluation) as logits:
        test, expected = ids["test"], softmax(logits[candidate.role.value].astype(np.float64), axis=1)
    rows = read_source(load(QUICK).data)
    assert rows.frame is not None
    asked = {"dataframe_split": rows.frame.iloc[test].to_dict(orient="split", index=False)}
    answer = json.loads(_ask(f"{servers['SERVE']}/invocations", asked))["predictions"]
    probabilities = [[row[f"probability:{name}"] for name in result.classes] for row in answer]
    assert np.abs(np.array(probabilities) - expected).max() < 1e-5


def test_cleaning_leaves_what_the_report_rests_on(served: str, shell: Shell) -> None:
    """Contract: a line for each kind of stage, and nothing is damaged; the last report's stages are there."""
    printed = shell.section("Disk space")
    assert "teachers" in printed and printed.count("in all") == 2 and "damaged" not in printed
    report = Report.read(shell.state / "runs" / "quick")
    assert all(Path(path).is_dir() for path in report.store.values())


def test_a_backup_brings_everything_back(served: str, shell: Shell, postgres: Postgres) -> None:
    """Reference: what both databases held before, and the champion's file."""
    queries = {
        "mlflow": "SELECT name, alias, version FROM registered_model_aliases ORDER BY alias",
        "prefect": "SELECT name FROM deployment",
    }
    before = {name: postgres.ask(name, query) for name, query in queries.items()}
    assert "champion" in before["mlflow"] and before["prefect"] == "nightly"
    shell.section("Backup and restore")
    assert {name: postgres.ask(name, query) for name, query in queries.items()} == before
    assert list((shell.state / "artifacts").rglob("student.onnx"))
    assert shell.done == list(sections())


def test_the_document_hides_nothing_from_these_tests() -> None:
    """Contract: every command is run, but for the packages of the machine, a unit for systemd, what test_onnx_model.py
    runs, and what takes a bucket or several machines (test_s3.py and test_dask_cluster.py do the same here)."""
    fences = [line for line in (ROOT / "docs" / "production.md").read_text().splitlines() if line.startswith("```")]
    assert [fence for fence in fences[::2] if fence != "```bash"] == [
        "```console",
        "```python",
        "```console",
        "```console",
        "```ini",
    ]
    for block in (block for blocks in sections().values() for block in blocks):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
