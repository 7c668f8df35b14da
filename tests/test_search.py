"""Stage `search`: shared out evenly, within budgets, and the same however often it was killed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from distillery import search, trials
from distillery.config import Search
from distillery.config_file import parse
from distillery.dataset import Dataset
from distillery.errors import InputError
from distillery.search import feasible, objective, open_study, profile_capacity, run_search
from distillery.store import Handle, Store

TRIALS = 11  # the last round is not full, and the sampler has begun to model


@pytest.fixture
def run(chain: SimpleNamespace, tree: dict[str, Any]) -> Callable[..., Handle]:
    """`run_search` on the tiny chain, with changes of the config's search section."""

    def run(store: Store, changes: dict[str, Any] | None = None, **more: Any) -> Handle:
        tree["search"] |= {"trials": TRIALS, "epochs": 1, **(changes or {})}
        on_train = chain.logits["train"]
        return run_search(parse(tree), chain.data, chain.ensemble, on_train, chain.profiles, store, **more)

    return run


def facts(handle: Handle) -> list[tuple[Any, ...]]:
    """What of each trial does not depend on the clock."""
    keys = ("number", "capacity", "setting", "state", "nll", "accuracy")
    return [tuple(str(record.get(k)) for k in keys) for record in handle.json("search.json")["trials"]]


@pytest.fixture(scope="module")
def undisturbed(chain: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A search in one go: its handle, and the records that `on_trial` was given."""
    config = chain.config.model_copy(update={"search": Search(trials=TRIALS, epochs=1)})
    records: list[dict[str, Any]] = []
    store, on_train = Store(tmp_path_factory.mktemp("search")), chain.logits["train"]
    handle = run_search(config, chain.data, chain.ensemble, on_train, chain.profiles, store, on_trial=records.append)
    return SimpleNamespace(handle=handle, records=records, config=config)


def test_every_capacity_gets_its_share(undisturbed: SimpleNamespace) -> None:
    """property: as many trials as asked for, capacities in turn, all knobs in their range, every one reported."""
    trials = undisturbed.handle.json("search.json")["trials"]
    assert trials == undisturbed.records
    assert [t["number"] for t in trials] == list(range(TRIALS))
    assert [t["capacity"] for t in trials] == ["small", "large"] * 5 + ["small"]
    for trial in trials:
        assert 1 <= trial["setting"]["temperature"] <= 8 and 0.3 <= trial["setting"]["alpha"] <= 1
        assert trial["setting"]["lr"] is None and trial["state"] == "complete"
    assert len({str(t["setting"]) for t in trials}) > TRIALS / 2


def test_settings_known_to_be_good_come_first(undisturbed: SimpleNamespace) -> None:
    """golden: each capacity begins with the config's known_good."""
    trials = undisturbed.handle.json("search.json")["trials"]
    for position, known in enumerate(Search().known_good):
        for trial in trials[2 * position : 2 * position + 2]:
            assert {k: trial["setting"][k] for k in known} == pytest.approx(known)


def test_the_result_is_read_off_the_trials(undisturbed: SimpleNamespace) -> None:
    """reference: best settings, choice and front by brute force over the records."""
    found = undisturbed.handle.json("search.json")
    trials = found["trials"]
    for capacity, number in found["best"].items():
        mine = [t for t in trials if t["capacity"] == capacity]
        assert trials[number]["nll"] == min(t["nll"] for t in mine) and trials[number] in mine
    assert found["chosen"] == min(trials, key=lambda t: t["nll"])["capacity"]
    assert undisturbed.handle.metrics["nll"] == min(t["nll"] for t in trials)

    def beaten(a: dict[str, Any]) -> bool:
        costs = {t["number"]: [objective(t, o) for o in ("nll", "latency_ms", "params")] for t in trials}
        mine = costs.pop(a["number"])
        return any(all(x <= y for x, y in zip(c, mine, strict=True)) and c != mine for c in costs.values())

    assert sorted(found["front"]) == [t["number"] for t in trials if not beaten(t)]


def test_a_killed_search_goes_on_as_if_nothing_happened(
    undisturbed: SimpleNamespace, run: Callable[..., Handle], store: Store
) -> None:
    """resume: stopped after a round, in the middle of training, and while asking, it ends with the same trials."""
    calls: list[str] = []

    def stops(record: dict[str, Any]) -> None:
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
    handle = run(store, on_trial=lambda record: seen.append(record["number"]))
    assert facts(handle) == facts(undisturbed.handle)
    assert seen == list(range(4, TRIALS))  # two rounds of two were finished before


def test_a_trial_that_was_only_planned_is_planned_again(
    undisturbed: SimpleNamespace, run: Callable[..., Handle], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """resume: a kill between planning a trial and beginning it leaves nothing that counts."""
    planned: list[Any] = []

    def stop(config: Search, digest: str, *rest: Any) -> Any:
        study = open_study(config, digest, *rest)
        study.enqueue_trial({"capacity": "small", "temperature": 3.3, "alpha": 0.5})
        planned.append(study)
        return study

    monkeypatch.setattr(search, "open_study", stop)
    assert facts(run(store)) == facts(undisturbed.handle) and planned


def test_the_order_of_work_does_not_matter(
    undisturbed: SimpleNamespace, run: Callable[..., Handle], store: Store
) -> None:
    """determinism: trials of a round trained in the reverse order give the same records."""

    def backwards(function: Any, jobs: list[tuple[Any, ...]]) -> list[Any]:
        assert len(jobs) <= 2
        return [function(*job) for job in reversed(jobs)][::-1]

    assert facts(run(store, run_many=backwards)) == facts(undisturbed.handle)


def test_test_rows_are_never_read(run: Callable[..., Handle], store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """property: the search finishes where test rows and labels cannot be had."""
    labels = Dataset.labels

    class Sealed(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            assert name != "test"
            return super().__getitem__(name)

    def not_test(self: Dataset, split: str) -> Any:
        assert split != "test"
        return labels(self, split)

    splits = Dataset.splits.func  # type: ignore[attr-defined]
    monkeypatch.setattr(Dataset, "labels", not_test)
    monkeypatch.setattr(Dataset, "splits", property(lambda self: Sealed(splits(self))))
    monkeypatch.setattr(trials, "_memory", {})
    assert run(store, {"trials": 3}).metrics["trials"] == 3


def test_budgets_leave_capacities_out(
    chain: SimpleNamespace, run: Callable[..., Handle], store: Store, tmp_path: Any
) -> None:
    """contract: capacities over the budget get no trial; where none is left, the message says what was measured."""
    params = {p.name: p.metrics["params"] for p in chain.profiles}
    handle = run(store, {"trials": 3, "max_params": params["small"]})
    assert {t["capacity"] for t in handle.json("search.json")["trials"]} == {"small"}
    with pytest.raises(InputError, match=rf"within .*max_params=5, got small: .* ms, {params['small']} parameters"):
        run(store, {"max_params": 5})
    slow = [p.metrics["latency_ms_p50"] for p in chain.profiles]
    assert feasible(Search(max_latency_ms=max(slow)), chain.profiles) == ["small", "large"]
    with pytest.raises(InputError, match="max_latency_ms"):
        feasible(Search(max_latency_ms=min(slow) / 2), chain.profiles)


DIVERGES = {"lr": {"low": 1e-3, "high": 1e30, "log": True}, "trials": 6}


def test_a_trial_that_diverges_is_noted(run: Callable[..., Handle], store: Store, tmp_path: Any) -> None:
    """contract: it is recorded as failed with the reason, the others go on, and it is nobody's best."""
    known = [
        {"temperature": 2.0, "alpha": 0.5, "lr": 1e30},
        *[{"temperature": t, "alpha": 0.5, "lr": 0.01} for t in (2.0, 3.0)],
    ]
    handle = run(store, {**DIVERGES, "known_good": known})
    found = handle.json("search.json")
    assert [t["state"] for t in found["trials"]] == ["fail"] * 2 + ["complete"] * 4
    assert all("loss became" in t["reason"] and "lr" in t["reason"] for t in found["trials"][:2])
    assert set(found["best"].values()) <= set(range(2, 6)) and set(found["front"]) <= set(range(2, 6))
    with pytest.raises(FloatingPointError, match=r"search: all 2 trials diverged: .*the loss became"):
        run(Store(tmp_path / "other"), {"lr": 1e30, "trials": 2})


def test_a_number_fixes_a_knob(run: Callable[..., Handle], store: Store) -> None:
    """contract: fixed knobs have their value in every trial, searched ones vary; all may be fixed."""
    handle = run(store, {"trials": 4, "temperature": 2.5, "lr": {"low": 0.001, "high": 0.1, "log": True}})
    settings = [t["setting"] for t in handle.json("search.json")["trials"]]
    assert {s["temperature"] for s in settings} == {2.5} and len({s["lr"] for s in settings}) > 1
    fixed = run(store, {"trials": 2, "temperature": 2.5, "alpha": 0.5, "lr": None})
    assert [t["setting"]["alpha"] for t in fixed.json("search.json")["trials"]] == [0.5, 0.5]


def test_a_smaller_one_may_be_chosen(run: Callable[..., Handle], store: Store, undisturbed: SimpleNamespace) -> None:
    """reference: the smallest capacity whose best NLL is within one standard error of the lowest."""
    handle = run(store, {"choose": "smallest_within_one_se"})
    found = handle.json("search.json")
    assert facts(handle) == facts(undisturbed.handle)
    best = [found["trials"][number] for number in found["best"].values()]
    top = min(best, key=lambda t: t["nll"])
    near = [t for t in best if t["nll"] <= top["nll"] + top["nll_se"]]
    assert found["chosen"] == min(near, key=lambda t: t["params"])["capacity"]


def test_a_search_is_found_again(run: Callable[..., Handle], store: Store, chain: SimpleNamespace) -> None:
    """determinism: a finished search trains nothing; a damaged one is put together from the study's own records."""
    first = run(store, {"trials": 2})
    assert run(store, {"trials": 2}, run_many=None).cached
    first.file("search.json").write_text("{}")
    trained: list[int] = []
    again = run(store, {"trials": 2}, on_trial=trained.append)
    assert facts(again) and not trained and not again.cached


def test_a_profile_is_of_the_capacity(chain: SimpleNamespace, store: Store) -> None:
    """golden: 8 inputs, 4 hidden, 3 classes are 51 parameters and 44 multiplications; measured once."""
    small = chain.config.student.capacities[0]
    handle = profile_capacity(small, chain.data, 10, store)
    assert (handle.metrics["params"], handle.metrics["macs"]) == (8 * 4 + 4 + 4 * 3 + 3, 8 * 4 + 4 * 3)
    assert profile_capacity(small, chain.data, 10, store).cached
