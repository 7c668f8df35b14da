"""The study without a teacher, which makes the tuned baseline."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
import zarr
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from tiny_chain import FinishedChain

from distillery.config.config_file import parse
from distillery.config.search_space import Knobs, Range
from distillery.stages.distillation import distill
from distillery.stages.search.record import SearchResult
from distillery.stages.search.student_search import baseline_knobs, run_baseline_search, run_search
from distillery.store import Store


def test_it_has_the_trials_of_the_chosen_capacity(finished: FinishedChain) -> None:
    """contract: as many trials as that capacity had with a teacher, of it alone, and none of the soft knobs."""
    found, alone = SearchResult.read(finished.search), SearchResult.read(finished.alone)
    assert len(alone.trials) == sum(t.capacity == finished.chosen for t in found.trials) == 2
    assert {t.capacity for t in alone.trials} == {alone.chosen} == {finished.chosen}
    for trial in alone.trials:
        assert (trial.setting["alpha"], trial.setting["temperature"], trial.setting["loss"]) == (0, 1, None)
        assert set(trial.proposal) == {"lr", "weight_decay"}
    assert alone.study != found.study and finished.alone.path != finished.search.path
    journal = JournalFileBackend(str(finished.store.root / "optuna.journal"))
    study = optuna.load_study(study_name=alone.study, storage=JournalStorage(journal))
    assert set(study.trials[0].params) == {"capacity", "lr", "weight_decay"}


def test_its_knobs_lie_around_the_recipes(finished: FinishedChain, tree: dict[str, Any]) -> None:
    """golden: by default a factor 4 around the learning rate, 8 around the decay, the recipe itself first."""
    knobs = baseline_knobs(finished.config)
    assert knobs.lr == Range(low=0.0025, high=0.04, log=True)
    assert knobs.weight_decay == Range(low=0.00125, high=0.08, log=True)
    assert knobs.noise is knobs.label_smoothing is None
    first, second = SearchResult.read(finished.alone).trials
    assert (first.setting["lr"], first.setting["weight_decay"]) == pytest.approx((0.01, 0.01))
    assert second.setting["lr"] != first.setting["lr"] and 0.0025 <= second.setting["lr"] <= 0.04
    tree["student"]["recipe"]["weight_decay"] = 0.0
    assert baseline_knobs(parse(tree)).weight_decay == Range(low=1e-3 / 8, high=8e-3, log=True)
    tree["search"]["baseline"] = {"lr": 0.5}
    assert baseline_knobs(parse(tree)) == Knobs(lr=0.5)


def test_it_opens_no_logits(
    finished: FinishedChain, store: Store, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """property: without any logits to open it gives the same trials; the study of students cannot."""

    def closed(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError("logits")

    monkeypatch.setattr(zarr, "open_array", closed)
    monkeypatch.setattr(distill, "_kept", {})
    upstream = (finished.config, finished.data)
    alone = run_baseline_search(*upstream, finished.search, finished.profiles, store)
    mine, theirs = (SearchResult.read(h).trials for h in (alone, finished.alone))
    assert [(t.setting, t.nll) for t in mine] == [(t.setting, t.nll) for t in theirs]
    with pytest.raises(PermissionError, match="logits"):
        run_search(*upstream, finished.ensemble, finished.taught, finished.profiles, Store(tmp_path / "other"))


def test_its_own_knobs_are_searched(finished: FinishedChain, tree: dict[str, Any], store: Store) -> None:
    """contract: search.baseline's ranges count, not those of the students; a change of it is another study."""
    tree["search"]["baseline"] = {"lr": {"low": 0.5, "high": 0.6}, "noise": 0.2, "initial_points": [{"lr": 0.55}]}
    alone = run_baseline_search(parse(tree), finished.data, finished.search, finished.profiles, store)
    settings = [t.setting for t in SearchResult.read(alone).trials]
    assert settings[0]["lr"] == 0.55 and 0.5 <= settings[1]["lr"] <= 0.6 and settings[1]["lr"] != 0.55
    assert {s["noise"] for s in settings} == {0.2} and {s["weight_decay"] for s in settings} == {None}
    assert alone.fingerprint != finished.alone.fingerprint
    tree["search"] |= {"finalists": 7, "seeds": 5}
    again = run_baseline_search(parse(tree), finished.data, finished.search, finished.profiles, store, run_many=None)
    assert again.cached
