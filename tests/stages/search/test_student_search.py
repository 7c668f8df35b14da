"""Stage `search`: shared out evenly, within budgets, and the same however often it was killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_chain import Chain
from trials import a_trial

from distillery.config.search_space import Search, Setting
from distillery.errors import InputError
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preprocess import session
from distillery.stages.measurement.runtimes import NotExportable
from distillery.stages.search import student_search
from distillery.stages.search.record import SearchResult, Trial
from distillery.stages.search.student_search import GRAPH, choose, feasible, profile_capacity, select
from distillery.stages.search.study import open_study
from distillery.store import Handle, Store

TRIALS = 11  # the last round is not full
BASIC = {"trials": TRIALS, "epochs": 1, "trials_per_round": 2}


def facts(handle: Handle) -> list[tuple[Any, ...]]:
    """What of each trial does not depend on the clock."""
    keys = ("number", "capacity", "setting", "state", "nll", "accuracy")
    return [tuple(str(getattr(trial, key)) for key in keys) for trial in SearchResult.read(handle).trials]


@pytest.fixture
def run(search_with: Callable[..., Handle]) -> Callable[..., Handle]:
    """A search of one epoch per trial."""

    def run(store: Store, changes: dict[str, Any] | None = None, **more: Any) -> Handle:
        return search_with(store, {**BASIC, **(changes or {})}, **more)

    return run


@pytest.fixture(scope="module")
def undisturbed(search_with: Callable[..., Handle], tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A search in one go: its handle, its store, and the records that `on_trial` was given."""
    records: list[Trial] = []
    store = Store(tmp_path_factory.mktemp("search"))
    handle = search_with(store, BASIC, on_trial=records.append)
    return SimpleNamespace(handle=handle, records=records, store=store)


def test_every_capacity_gets_its_share(undisturbed: SimpleNamespace) -> None:
    """property: as many trials as asked for, capacities in turn, all knobs in their range, every one reported."""
    found = SearchResult.read(undisturbed.handle).trials
    assert found == undisturbed.records
    assert [t.number for t in found] == list(range(TRIALS))
    assert [t.capacity for t in found] == ["small", "large"] * 5 + ["small"]
    for trial in found:
        assert 1 <= trial.setting["temperature"] <= 8 and 0.3 <= trial.setting["alpha"] <= 1
        assert trial.setting["lr"] is trial.setting["loss"] is None and trial.state == "complete"
    assert len({str(t.setting) for t in found}) > TRIALS / 2


def test_settings_known_to_be_good_come_first(undisturbed: SimpleNamespace) -> None:
    """golden: each capacity begins with the config's initial_points."""
    found = SearchResult.read(undisturbed.handle).trials
    for position, known in enumerate(Search().initial_points):
        for trial in found[2 * position : 2 * position + 2]:
            assert {k: trial.setting[k] for k in known} == pytest.approx(known)


def test_the_result_is_read_off_the_trials(undisturbed: SimpleNamespace) -> None:
    """reference: ranking, choice and front by brute force over the records."""
    found = SearchResult.read(undisturbed.handle)
    records = found.trials
    for capacity, numbers in found.ranked.items():
        assert set(numbers) == {t.number for t in records if t.capacity == capacity}
        values = [records[number].nll for number in numbers]
        assert values == sorted(values)
    assert found.chosen == min(records, key=lambda t: t.nll).capacity
    assert undisturbed.handle.metrics["nll"] == min(t.nll for t in records)

    def beaten(a: Trial) -> bool:
        costs = {t.number: [t.objective(o) for o in ("nll", "latency_ms", "params")] for t in records}
        mine = costs.pop(a.number)
        return any(all(x <= y for x, y in zip(c, mine, strict=True)) and c != mine for c in costs.values())

    assert sorted(found.front) == [t.number for t in records if not beaten(t)]


def test_a_killed_search_goes_on_as_if_nothing_happened(
    undisturbed: SimpleNamespace, run: Callable[..., Handle], store: Store
) -> None:
    """resume: stopped after a round, in the middle of training, and while asking, it ends with the same trials."""
    calls: list[str] = []

    def stops(trial: Trial) -> None:
        calls.append("told")
        if len(calls) == 3:
            raise KeyboardInterrupt

    def dies(function: Any, jobs: list[Any]) -> list[Any]:
        calls.append("died")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(store, on_trial=stops)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(store, run_many=dies)
    seen: list[int] = []
    handle = run(store, on_trial=lambda trial: seen.append(trial.number))
    assert facts(handle) == facts(undisturbed.handle)
    assert seen == list(range(4, TRIALS))  # a round of two cohorts of two was finished before


def test_a_trial_that_was_only_planned_is_planned_again(
    undisturbed: SimpleNamespace, run: Callable[..., Handle], store: Store
) -> None:
    """resume: a kill between planning a trial and beginning it leaves nothing that counts."""
    name = SearchResult.read(undisturbed.handle).study
    study = open_study(store, name, ("nll", "latency_ms", "params"))
    study.enqueue_trial({"capacity": "small", "temperature": 3.3, "alpha": 0.5})
    handle = run(store)
    assert facts(handle) == facts(undisturbed.handle) and SearchResult.read(handle).study == name
    assert len(study.trials) == TRIALS + 1


def test_the_order_of_work_does_not_matter(
    undisturbed: SimpleNamespace, run: Callable[..., Handle], store: Store
) -> None:
    """determinism: trials of a round trained in the reverse order give the same records."""

    def backwards(function: Any, jobs: list[tuple[Any, ...]]) -> list[Any]:
        assert len(jobs) <= 2
        return [function(*job) for job in reversed(jobs)][::-1]

    assert facts(run(store, run_many=backwards)) == facts(undisturbed.handle)


def test_test_rows_are_never_read(
    chain: Chain, undisturbed: SimpleNamespace, run: Callable[..., Handle], store: Store, tmp_path: Path
) -> None:
    """property: with nonsense in place of the test rows' inputs and labels the trials are the same, bit by bit."""
    copy = tmp_path / "data"
    shutil.copytree(chain.data.path, copy)
    inputs, labels, test = np.load(copy / "inputs.npy"), np.load(copy / "labels.npy"), chain.dataset.splits["test"]
    inputs[test], labels[test] = np.nan, 0
    np.save(copy / "inputs.npy", inputs)
    np.save(copy / "labels.npy", labels)
    handle = run(store, data=replace(chain.data, path=str(copy)))
    assert np.isnan(Dataset(replace(chain.data, path=str(copy))).inputs[test]).all()
    assert facts(handle) == facts(undisturbed.handle)


def test_budgets_leave_capacities_out(chain: Chain, run: Callable[..., Handle], store: Store) -> None:
    """contract: capacities over the budget get no trial; where none is left, the message says what was measured."""
    params = {p.name: p.metrics["params"] for p in chain.profiles}
    handle = run(store, {"trials": 3, "max_params": params["small"]})
    assert {t.capacity for t in SearchResult.read(handle).trials} == {"small"}
    assert list(SearchResult.read(handle).ranked) == ["small"]
    with pytest.raises(InputError, match=rf"within .*max_params=5, got small: .* ms, {params['small']} parameters"):
        run(store, {"max_params": 5})
    slow = [p.metrics["latency_ms_p50"] for p in chain.profiles]
    assert feasible(Search(max_latency_ms=max(slow)), chain.profiles) == ["small", "large"]
    with pytest.raises(InputError, match="max_latency_ms"):
        feasible(Search(max_latency_ms=min(slow) / 2), chain.profiles)


def test_a_trial_that_diverges_is_noted(run: Callable[..., Handle], store: Store, tmp_path: Path) -> None:
    """contract: it is recorded as failed with the reason, the others go on, and it is nobody's best."""
    hot = {"temperature": 2.0, "alpha": 0.5, "lr": 1e30}
    known = [hot, *[{**hot, "temperature": t, "lr": 0.01} for t in (2.0, 3.0)]]
    handle = run(store, {"lr": {"low": 1e-3, "high": 1e30, "log": True}, "trials": 6, "initial_points": known})
    found = SearchResult.read(handle)
    assert [t.state for t in found.trials] == ["fail"] * 2 + ["complete"] * 4
    assert all("loss became" in t.reason and "lr" in t.reason for t in found.trials[:2])
    assert sorted(n for numbers in found.ranked.values() for n in numbers) == [2, 3, 4, 5]
    assert set(found.front) <= {2, 3, 4, 5}
    with pytest.raises(FloatingPointError, match=r"search: all 2 trials diverged: .*the loss became"):
        run(Store(tmp_path / "other"), {"lr": 1e30, "trials": 2})


def test_a_smaller_one_may_be_chosen(run: Callable[..., Handle], store: Store, undisturbed: SimpleNamespace) -> None:
    """reference: the smallest capacity whose best NLL is within one standard error of the lowest."""
    handle = run(store, {"select": "smallest_within_one_se"})
    found = SearchResult.read(handle)
    assert facts(handle) == facts(undisturbed.handle)
    best = [found.trials[numbers[0]] for numbers in found.ranked.values()]
    top = min(best, key=lambda t: t.nll)
    near = [t for t in best if t.nll <= top.nll + top.nll_se]
    assert found.chosen == min(near, key=lambda t: t.params).capacity


@pytest.mark.parametrize(("quality", "gap", "chosen"), [("nll", 0.9, "s"), ("nll", 1.1, "l"), ("error", 0.9, "s")])
def test_within_one_standard_error(quality: str, gap: float, chosen: str) -> None:
    """golden: a capacity `gap` standard errors behind the best; one standard error is the border for both figures."""
    large = a_trial("l")
    small = a_trial("s", params=3, nll=0.5 + 0.02 * gap, accuracy=0.8 - 0.01 * gap)
    config = Search(objectives=(quality, "params"), select="smallest_within_one_se")
    assert choose([large, small], config).capacity == chosen
    assert choose([large, small], Search(objectives=(quality, "params"))).capacity == "l"
    far = a_trial("s", params=3, nll=0.6, accuracy=0.75)
    assert choose([large, far], config).capacity == "l"


def test_a_search_is_found_again(run: Callable[..., Handle], store: Store) -> None:
    """determinism: a finished search trains nothing; a damaged one is put together from the study's own records."""
    first = run(store, {"trials": 2})
    assert run(store, {"trials": 2}, run_many=None).cached
    first.file("search.json").write_text("{}")
    trained: list[int] = []
    again = run(store, {"trials": 2}, on_trial=trained.append)
    assert facts(again) and not trained and not again.cached


def test_finalists_and_their_seeds_train_no_trial_again(
    undisturbed: SimpleNamespace, run: Callable[..., Handle]
) -> None:
    """contract: other finalists, seeds or knobs of the baseline leave the study as it is; another range does not."""
    for change in ({"finalists": 5}, {"seeds": 3}, {"baseline": {"lr": {"low": 0.1, "high": 0.2}}}):
        assert run(undisturbed.store, change, run_many=None).fingerprint == undisturbed.handle.fingerprint
    with pytest.raises(TypeError):
        run(undisturbed.store, {"alpha": {"low": 0.4, "high": 1}}, run_many=None)


def test_the_best_settings_are_distinct() -> None:
    """golden: in the order of the ranking, equal ones once, at most as many as asked for."""
    settings = [Setting(temperature=t, alpha=0.5) for t in (5.0, 2.0, 5.0, 3.0)]
    trials = [a_trial("net", number=n, setting=setting.model_dump()) for n, setting in enumerate(settings)]
    result = SearchResult(
        study="x", objectives=("nll", "params"), trials=trials, front=[], ranked={"net": [2, 0, 3, 1]}, chosen="net"
    )
    assert [s.temperature for s in result.best_settings("net", 3)] == [5.0, 3.0, 2.0]
    assert [s.temperature for s in result.best_settings("net", 9)] == [5.0, 3.0, 2.0]
    assert result.best_settings("net") == [Setting(temperature=5.0, alpha=0.5)]


def test_the_mean_over_seeds_decides() -> None:
    """golden: neither the luckiest seed nor the first one, but the mean; of errors where they are the objective."""
    nll = [[0.1, 0.9], [0.4, 0.4], [0.3, 0.6]]
    accuracy = [[0.9, 0.8], [0.7, 0.7], [0.99, 0.6]]
    runs = [
        [Handle("students", "x", "", "", {"nll": n, "accuracy": a}) for n, a in zip(*pair, strict=True)]
        for pair in zip(nll, accuracy, strict=True)
    ]
    assert select(runs, "nll") == 1 and select(runs, "error") == 0


def test_a_profile_is_of_the_capacity(chain: Chain, store: Store) -> None:
    """golden: 8 inputs, 4 hidden, 3 classes are 51 parameters and 44 multiplications; measured once."""
    small = chain.config.student.capacities[0]
    handle = profile_capacity(small, chain.data, 10, store)
    assert (handle.metrics["params"], handle.metrics["macs"]) == (8 * 4 + 4 + 4 * 3 + 3, 8 * 4 + 4 * 3)
    assert profile_capacity(small, chain.data, 10, store).cached
    running = session(onnx.load(handle.file(GRAPH)))
    inputs = {"inputs": chain.dataset.inputs[:5]}
    assert running.run(["logits"], inputs)[0].shape == (5, 3)


def test_a_capacity_that_cannot_be_served_is_refused(
    chain: Chain, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """contract of error messages: before anything trains, by the capacity's name, with the exporter's reason."""

    def refuses(*_: Any) -> None:
        raise NotExportable("it looks at its numbers")

    monkeypatch.setattr(student_search, "network_graph", refuses)
    with pytest.raises(InputError, match=r"student\.capacities: .* got 'small': it looks at its numbers"):
        profile_capacity(chain.config.student.capacities[0], chain.data, 10, store)


def test_the_capacity_to_ship_may_be_named(
    chain: Chain, undisturbed: SimpleNamespace, run: Callable[..., Handle], store: Store
) -> None:
    """contract: another choice keeps the study and its trials; a capacity over the budget is refused by its name."""
    trained: list[Any] = []

    def counted(function: Any, jobs: list[Any]) -> list[Any]:
        trained.extend(trial for (job,) in jobs for trial in job.trials)
        return [function(*job) for job in jobs]

    for name in ("small", "large"):
        handle = run(store, {"select": name}, run_many=counted)
        assert SearchResult.read(handle).chosen == name
        assert facts(handle) == facts(undisturbed.handle)
    assert len(trained) == TRIALS
    params = {p.name: p.metrics["params"] for p in chain.profiles}
    with pytest.raises(InputError, match=r"search: expected 'large' within .*max_params"):
        feasible(Search(max_params=params["small"], select="large"), chain.profiles)
