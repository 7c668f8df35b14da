"""Many processes decide about one registered model: on one machine, and on several that share a PostgreSQL database."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distillery.errors import InputError
from distillery.flows.environment import Places
from distillery.flows.tracking import lock
from distillery.flows.tracking.lifecycle import transaction
from distillery.flows.tracking.registry import FINGERPRINT
from distillery.flows.tracking.runs import connect

PROCESSES = 20
SQLITE, POSTGRES = "one machine", "several machines"
STORES = [SQLITE, pytest.param(POSTGRES, marks=pytest.mark.server)]


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[str]]:
    """A process that decides, in forks of itself."""
    script = [sys.executable, str(Path(__file__).with_name("proposals.py"))]
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


class Store:
    """An empty MLflow store, and the processes that share it."""

    def __init__(self, kind: str, environment: dict[str, str], forks: subprocess.Popen[str]) -> None:
        self.kind, self._environment, self._forks = kind, environment, forks
        self.client = connect(Places.from_environment())

    def told(self, mode: str, name: str, *counts: int) -> list[Any]:
        """What proposals.py answers."""
        assert self._forks.stdin is not None and self._forks.stdout is not None
        self._forks.stdin.write(json.dumps([self._environment, mode, name, *counts]) + "\n")
        self._forks.stdin.flush()
        found = []
        while not isinstance(answer := json.loads(self._forks.stdout.readline()), int):
            found.append(answer)
        assert answer == 0
        return found


@pytest.fixture(scope="module", params=STORES)
def store(
    request: pytest.FixtureRequest,
    forks: subprocess.Popen[str],
    new_home: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Store]:
    """On sqlite one machine; on PostgreSQL each process is a machine of its own: no two have the same home."""
    home = str(new_home(tmp_path_factory.mktemp("home")))
    environment = {"DISTILLERY_HOME": home}
    if request.param == POSTGRES:
        address = request.getfixturevalue("postgres")
        tracking = address.replace("postgresql:", "postgresql+psycopg:")
        environment |= {"DISTILLERY_DATABASE": address, "MLFLOW_TRACKING_URI": tracking, "HOMES": home}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        yield Store(request.param, environment, forks)


def test_twenty_processes_and_one_champion(store: Store) -> None:
    """Never a worse champion: after each round the best so far, `previous` right, no decision lost or doubled."""
    store.client.create_registered_model("racing")
    rounds = 5 if store.kind == SQLITE else 4
    states = store.told("race", "racing", PROCESSES, rounds)
    assert len(states) == rounds
    champions = []
    for number, state in enumerate(states, 1):
        quality = {int(version): value for version, value in state["quality"].items()}
        history = state["history"]
        assert state["numbers"] == list(range(1, number * PROCESSES + 1))
        assert sorted(entry["version"] for entry in history) == sorted(quality)
        champion = previous = None
        for entry in history:
            assert entry["over"] == champion
            better = champion is None or quality[entry["version"]] > quality[champion]
            assert entry["action"] == ("promoted" if better else "rejected")
            if better:
                champion, previous = entry["version"], champion
        assert champion is not None and quality[champion] == max(quality.values())
        assert state["aliases"] == {"champion": champion, **({"previous": previous} if previous else {})}
        assert [v for v, standing in state["standing"].items() if standing == "champion"] == [str(champion)]
        champions.append(champion)
    assert champions[2] == champions[3] and len(set(champions)) == rounds - 1


def test_a_killed_process_is_finished_by_the_next(store: Store) -> None:
    """Resume after SIGKILL: the decision was stored, the alias was not moved; the next run moves it, then decides."""
    store.client.create_registered_model("killed")
    for quality in (1, 2, 0):
        store.client.create_model_version("killed", "file:///nowhere", tags={FINGERPRINT: "x", "quality": str(quality)})
    first, mended, last = store.told("killed", "killed")
    assert first["aliases"] == {"champion": 1}
    assert mended["aliases"] == last["aliases"] == {"champion": 2, "previous": 1}
    assert mended["done"] == "history.000002" and mended["standing"]["2"] == "champion"
    found = [(entry["action"], entry["version"], entry["over"]) for entry in last["history"]]
    assert found == [("promoted", 1, None), ("promoted", 2, 1), ("rejected", 3, 2)]


def test_the_lock_of_a_killed_process_is_free(store: Store) -> None:
    """Resume after SIGKILL: who waits for the lock gets it when its holder dies, and not before."""
    assert store.told("orphan", "orphan") == ["held", "waits", "held"]


@pytest.mark.server
def test_a_lock_that_was_lost_is_noticed(postgres: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a worse champion: where the database has dropped the connection, nothing is written any more."""
    from sqlalchemy import create_engine, text

    monkeypatch.setenv("DISTILLERY_DATABASE", postgres)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    others = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
    engine = create_engine(postgres.replace("postgresql:", "postgresql+psycopg:"))
    with pytest.raises(ConnectionError, match="the lock was lost"), lock.held(Places.from_environment(), "m") as check:
        check()
        with engine.connect() as connection:
            connection.execute(text(others))
        check()
    engine.dispose()


@pytest.mark.server
def test_a_wrong_database_is_named(postgres: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract of error messages: address, password and kind of database; the password is never shown."""
    lock.check_database(Places.from_environment())
    wrong = {
        postgres.replace("right", "wrong"): "password authentication failed",
        postgres.replace("127.0.0.1", "127.0.0.1:9/x?"): "DISTILLERY_DATABASE",
        "mysql://me:wrong@nowhere/x": "got mysql://",
        "me:wrong@nowhere": "got something else",
    }
    for address, words in wrong.items():
        monkeypatch.setenv("DISTILLERY_DATABASE", address)
        with pytest.raises(InputError, match=r"^DISTILLERY_DATABASE: expected") as raised:
            lock.check_database(Places.from_environment())
        assert words in str(raised.value) and "wrong" not in str(raised.value)
    monkeypatch.setenv("DISTILLERY_DATABASE", postgres)
    lock.check_database(Places.from_environment())


@pytest.mark.server
def test_the_longest_record_fits_the_columns_of_postgresql(postgres: str, home: Path) -> None:
    """Reference: PostgreSQL holds MLflow to column lengths that sqlite lets pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLERY_DATABASE", postgres)
        patch.setenv("MLFLOW_TRACKING_URI", postgres.replace("postgresql:", "postgresql+psycopg:"))
        client = connect(Places.from_environment())
        client.create_registered_model("long")
        client.create_model_version("long", "file:///nowhere", tags={FINGERPRINT: "x"})
        with transaction(client, Places.from_environment(), "long") as mine:
            mine.promote(1, "ß" * 9000)
        with transaction(client, Places.from_environment(), "long") as mine:
            assert mine.champion == 1 and mine.entries[0].reasons[0].endswith("ß ...")
