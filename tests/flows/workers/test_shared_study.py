"""A study that is kept in PostgreSQL, where several machines and Optuna's own tools can see it."""

from __future__ import annotations

from pathlib import Path

import mlflow
import optuna
import pytest
from tiny_chain import Chain

from distillery.errors import InputError
from distillery.flows.environment import Places
from distillery.flows.tracking import lock
from distillery.stages.search.record import SearchResult, Trial
from distillery.stages.search.student_search import run_search
from distillery.stages.search.study import open_study
from distillery.store import Store

pytestmark = pytest.mark.server


class Stopped(Exception):
    """What ends a search half-way."""


def test_a_study_in_a_database_goes_on_anywhere(
    chain: Chain, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """resume: a search that stops on one machine goes on in another store, with the trials of the journal's search."""
    monkeypatch.setenv("DISTILLERY_DATABASE", postgres.replace("/postgres", "/studies"))
    database = lock.address(Places.from_environment())
    assert database is not None and database.startswith("postgresql+psycopg://distillery:right@")
    search = chain.config.search.model_copy(update={"trials": 8, "trials_per_round": 2})  # two rounds
    config = chain.config.model_copy(update={"search": search})
    upstream = (config, chain.data, chain.ensemble, chain.taught, chain.profiles)
    alone = SearchResult.read(run_search(*upstream, Store(tmp_path / "journal")))

    def stop(trial: Trial) -> None:
        if trial.number == 1:
            raise Stopped

    with pytest.raises(Stopped):
        run_search(*upstream, Store(tmp_path / "one"), on_trial=stop, database=database)
    seen: list[int] = []
    store = Store(tmp_path / "other")
    found = run_search(*upstream, store, on_trial=lambda r: seen.append(r.number), database=database)
    content = SearchResult.read(found)
    assert content.study == alone.study and seen == [4, 5, 6, 7]
    for one, other in zip(content.trials, alone.trials, strict=True):
        assert all(getattr(one, key) == getattr(other, key) for key in ("number", "setting", "nll", "state"))
    study = optuna.load_study(study_name=content.study, storage=database)
    assert [t.number for t in study.trials] == [t.number for t in content.trials]
    assert not (store.root / "optuna.journal").exists()


def test_a_database_of_another_program_is_named(postgres: str, tmp_path: Path) -> None:
    """contract: MLflow's database cannot hold studies, and is left as it is."""
    address = postgres.replace("postgresql:", "postgresql+psycopg:")
    client = mlflow.MlflowClient(address)
    with pytest.raises(InputError, match="the studies' database: expected one of Optuna's own, got another's"):
        open_study(Store(tmp_path), "study", ("nll", "params"), address)
    assert client.search_experiments()
