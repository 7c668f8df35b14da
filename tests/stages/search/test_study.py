"""Studies: what is proposed, who is stopped, and Optuna's own tools on the result."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots
from tiny_chain import Chain
from trials import a_trial

from distillery.config.search_space import Search
from distillery.stages.measurement.record import Profile
from distillery.stages.search.proposals import MEMORY, Proposals, seen_trials
from distillery.stages.search.record import SearchResult, Trial
from distillery.stages.search.study import Plan
from distillery.store import Handle, Store

TRIALS = 24
VIEWS = {"count": 3, "transforms": [{"name": "noise", "size": 0.3}]}
RICH: dict[str, Any] = {
    "trials": TRIALS,
    "trials_per_round": 4,
    "epochs": 1,
    "temperature": {"low": 1, "high": 8, "log": True},
    "lr": {"low": 0.005, "high": 0.02, "log": True},
    "weight_decay": 0.05,
    "noise": {"low": 0.0, "high": 0.3},
    "unlabeled_fraction": {"low": 0.2, "high": 0.8},
    "label_smoothing": {"low": 0.0, "high": 0.2},
    "losses": [
        {"name": "kd"},
        {"name": "dkd", "options": {"beta": {"low": 0.5, "high": 8, "log": True}, "target_weight": 0.5}},
        {"name": "mse", "options": {"clip": {"low": 2, "high": 10}}},
    ],
    "initial_points": [{"loss": "dkd", "temperature": 3.0}, {"loss": "mse", "alpha": 0.5, "weight_decay": 0.7}],
}
HALVED: dict[str, Any] = {
    "trials": TRIALS,
    "trials_per_round": 3,
    "epochs": 4,
    "lr": {"low": 0.0005, "high": 0.05, "log": True},
    "halving": {"eta": 2, "rungs": 2, "grace": 3},
}


def load(handle: Handle, store: Store) -> optuna.Study:
    """The study as a user of Optuna opens it."""
    journal = JournalFileBackend(str(store.root / "optuna.journal"))
    return optuna.load_study(study_name=SearchResult.read(handle).study, storage=JournalStorage(journal))


@pytest.fixture(scope="module")
def studies(search_with: Callable[..., Handle], tmp_path_factory: pytest.TempPathFactory) -> dict[str, SimpleNamespace]:
    """Two searches in one store: one with every knob, one with halving; with the jobs of each."""
    found, store = {}, Store(tmp_path_factory.mktemp("studies"))
    for name, changes, student in (("rich", RICH, {"views": VIEWS}), ("halved", HALVED, {})):
        jobs: list[Any] = []

        def run_many(function: Any, batch: list[Any], jobs: list[Any] = jobs) -> list[Any]:
            jobs += [job for (job,) in batch]
            return [function(*job) for job in batch]

        handle = search_with(store, changes, student, run_many=run_many)
        content = SearchResult.read(handle)
        found[name] = SimpleNamespace(
            handle=handle, store=store, jobs=jobs, content=content, trials=content.trials, optuna=load(handle, store)
        )
    return found


def test_every_knob_is_in_its_range(studies: dict[str, SimpleNamespace]) -> None:
    """property: searched knobs vary within their ranges, fixed ones and fixed options have their value."""
    trials = studies["rich"].trials
    for knob in ("temperature", "lr", "noise", "unlabeled_fraction", "label_smoothing"):
        values = [t.setting[knob] for t in trials]
        assert RICH[knob]["low"] <= min(values) < max(values) <= RICH[knob]["high"]
    assert {t.setting["weight_decay"] for t in trials} == {0.05}
    assert {t.setting["loss"]["name"] for t in trials} == {"kd", "dkd", "mse"}
    for trial in trials:
        loss = trial.setting["loss"]
        options = {k: v for k, v in loss.items() if k != "name"}
        if loss["name"] == "dkd":
            assert options == {"beta": trial.proposal["dkd.beta"], "target_weight": 0.5}
        else:
            assert options == ({"clip": trial.proposal["mse.clip"]} if loss["name"] == "mse" else {})


@pytest.mark.parametrize(("name", "cohort"), [("rich", 4), ("halved", 3)])
def test_a_round_trains_a_cohort_of_every_capacity(studies: dict[str, SimpleNamespace], name: str, cohort: int) -> None:
    """reference: capacities take turns, a cohort each, the last one cut off; jobs have the settings of the records,
    and the dearest capacity begins."""
    seen = studies[name]
    mine = {c: [t.setting for t in seen.trials if t.capacity == c] for c in ("small", "large")}
    assert [job.capacity.name for job in seen.jobs] == ["large", "small"] * -(-TRIALS // (2 * cohort))
    for capacity, settings in mine.items():
        jobs = [job for job in seen.jobs if job.capacity.name == capacity]
        assert [t.setting.model_dump() for job in jobs for t in job.trials] == settings
        assert {len(job.trials) for job in jobs[:-1]} == {cohort}


def test_known_settings_come_first_with_their_loss(studies: dict[str, SimpleNamespace]) -> None:
    """golden: every capacity begins with them; what they leave open is drawn; a fixed knob keeps its value."""
    trials = studies["rich"].trials
    assert [t.capacity for t in trials[:4]] == ["small", "large"] * 2
    assert [t.setting["loss"]["name"] for t in trials[:4]] == ["dkd", "dkd", "mse", "mse"]
    assert [t.setting["temperature"] for t in trials[:2]] == [3.0, 3.0]
    assert [t.setting["alpha"] for t in trials[2:4]] == [0.5, 0.5]
    assert trials[2].setting["weight_decay"] == 0.05
    assert trials[0].setting["alpha"] != trials[1].setting["alpha"]


def test_optuna_sees_the_options_of_the_loss_in_use_only(studies: dict[str, SimpleNamespace]) -> None:
    """contract: the loss is a choice, its options are conditional; all values are those of the record."""
    seen = studies["rich"]
    everywhere = {"capacity", "temperature", "alpha", "lr", "noise", "unlabeled_fraction", "label_smoothing", "loss"}
    conditional = {"kd": set(), "dkd": {"dkd.beta"}, "mse": {"mse.clip"}}
    for trial, record in zip(seen.optuna.trials, seen.trials, strict=True):
        assert set(trial.params) == everywhere | conditional[trial.params["loss"]]
        shown = {"capacity": record.capacity, **record.proposal}
        assert trial.params == {k: shown[k] for k in trial.params}
        assert trial.distributions["loss"] == CategoricalDistribution(["kd", "dkd", "mse"])
        assert trial.distributions["lr"] == FloatDistribution(0.005, 0.02, log=True)
        assert trial.values == [record.objective(name) for name in ("nll", "latency_ms", "params")]


def test_rungs_hold_what_earlier_trials_of_the_same_capacity_had_there(studies: dict[str, SimpleNamespace]) -> None:
    """reference: at each rung the NLLs of the capacity's trials of earlier rounds that came there."""
    halved, width = studies["halved"], 2 * HALVED["trials_per_round"]
    for place, job in enumerate(halved.jobs):
        before = [t for t in halved.trials[: place // 2 * width] if t.capacity == job.capacity.name]
        curves = {epoch: [t.curve[epoch] for t in before if epoch in t.curve] for epoch in (1, 2)}
        assert {epoch: list(values) for epoch, values in job.rungs} == curves
        assert len(curves[2]) <= len(curves[1]) == len(before)
    assert halved.jobs[-1].rungs[1][1] and studies["rich"].jobs[-1].rungs == ()


def test_weak_trials_stop_and_are_nobodys_best(studies: dict[str, SimpleNamespace]) -> None:
    """contract: stopped at the first rung where it is above the median of its cohort and all before, once there are
    `grace` of them, with its curve; neither best nor on the front nor ranked."""
    halved = studies["halved"]
    for place, job in enumerate(halved.jobs):
        first = place // 2 * 2 * HALVED["trials_per_round"] + (job.capacity.name == "large")
        cohort = halved.trials[first::2][: len(job.trials)]
        for epoch, earlier in job.rungs:
            here = [t for t in cohort if epoch in t.curve]
            seen = [*earlier, *(t.curve[epoch] for t in here)]
            limit = np.median(seen) if len(seen) >= 3 else np.inf
            for trial in here:
                ends = trial.curve[epoch] > limit
                assert ends == (trial.state == "stopped" and epoch == list(trial.curve)[-1])
            assert {t.number for t in here} == {
                t.number for t in cohort if epoch == 1 or t.state == "complete" or 2 in t.curve
            }
    stopped = {t.number for t in halved.trials if t.state == "stopped"}
    complete = {t.number for t in halved.trials if t.state == "complete"}
    assert len(stopped) >= 4 and stopped | complete == set(range(TRIALS))
    ranked = [number for numbers in halved.content.ranked.values() for number in numbers]
    assert set(ranked) == complete and set(halved.content.front) <= complete
    for trial in halved.optuna.trials:
        assert trial.state == (TrialState.PRUNED if trial.number in stopped else TrialState.COMPLETE)


class Killed(BaseException):
    """The process ended here."""


def facts(trials: list[Trial]) -> list[list[Any]]:
    """What of each trial does not depend on the clock."""
    keys = ("number", "capacity", "setting", "proposal", "state", "nll", "accuracy", "curve")
    return [[getattr(trial, key) for key in keys] for trial in trials]


@pytest.mark.parametrize(("name", "points"), [("halved", (1, 6, 8, 11, 23)), ("rich", (3, 8, 13))])
def test_a_study_that_was_killed_goes_on(
    studies: dict[str, SimpleNamespace],
    search_with: Callable[..., Handle],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    points: tuple[int, ...],
) -> None:
    """resume: killed again and again while a round is written, between rounds and while they are reported, it ends
    with the same trials, in Optuna as well, and none is written or reported twice."""
    changes, student = {"halved": (HALVED, {}), "rich": (RICH, {"views": VIEWS})}[name]
    add, reported = optuna.Study.add_trial, []

    def until(point: int) -> Any:
        def add_trial(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
            if "record" in trial.user_attrs and trial.user_attrs["record"]["number"] == point:
                raise Killed
            add(study, trial)

        return add_trial

    for point in points:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(optuna.Study, "add_trial", until(point))
            search_with(store, changes, student, on_trial=reported.append)

    def stops(record: Trial) -> None:
        reported.append(record)
        raise Killed

    with pytest.raises(Killed):
        search_with(store, changes, student, on_trial=stops)
    handle = search_with(store, changes, student, on_trial=reported.append)
    assert facts(SearchResult.read(handle).trials) == facts(studies[name].trials)
    found, expected = load(handle, store), studies[name].optuna
    assert [(t.params, t.state, t.intermediate_values) for t in found.trials] == [
        (t.params, t.state, t.intermediate_values) for t in expected.trials
    ]
    numbers = [record.number for record in reported]
    assert len(set(numbers)) == len(numbers)


@pytest.fixture
def cut_off(search_with: Callable[..., Handle], store: Store) -> Path:
    """The journal of a study that was killed after its first round."""

    def stops(trial: Trial) -> None:
        raise Killed

    with pytest.raises(Killed):
        search_with(store, HALVED, on_trial=stops)
    return store.root / "optuna.journal"


def test_a_journal_that_was_cut_off_goes_on(
    studies: dict[str, SimpleNamespace], search_with: Callable[..., Handle], store: Store, cut_off: Path
) -> None:
    """resume: a line of which half was written does not count, and spoils nothing that is written after it."""
    whole = cut_off.read_bytes().splitlines(keepends=True)
    cut_off.write_bytes(b"".join(whole[:-1]) + whole[-1][: len(whole[-1]) // 2])
    handle = search_with(store, HALVED)
    assert facts(SearchResult.read(handle).trials) == facts(studies["halved"].trials)
    assert len(load(handle, store).trials) == TRIALS


def test_a_lock_that_optuna_left_behind_harms_nothing(
    studies: dict[str, SimpleNamespace], search_with: Callable[..., Handle], store: Store, cut_off: Path
) -> None:
    """resume: Optuna's own lock is a link to the journal, and stays where its holder was killed; it is neither waited
    for nor followed."""
    before, began = cut_off.read_bytes(), time.monotonic()
    lock = Path(f"{cut_off}.lock")
    lock.unlink(missing_ok=True)
    lock.symlink_to(cut_off)
    handle = search_with(store, HALVED)
    assert cut_off.read_bytes().startswith(before) and time.monotonic() - began < 20
    assert facts(SearchResult.read(handle).trials) == facts(studies["halved"].trials)


@pytest.mark.parametrize("name", ["rich", "halved"])
def test_optuna_and_the_result_agree(studies: dict[str, SimpleNamespace], name: str) -> None:
    """reference: Optuna's best trials are search.json's front, and the objectives have their names."""
    seen = studies[name]
    best = sorted(t.user_attrs["record"]["number"] for t in seen.optuna.best_trials)
    assert best == sorted(seen.content.front)
    assert seen.optuna.metric_names == ["nll", "latency_ms", "params"]
    assert {d.name for d in seen.optuna.directions} == {"MINIMIZE"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["rich", "halved"])
def test_optunas_pictures_can_be_drawn(studies: dict[str, SimpleNamespace], name: str) -> None:
    """contract: front, slices, importances, history and hypervolume are drawn from all complete trials."""
    study = studies[name].optuna
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    quality: dict[str, Any] = {"target": lambda t: t.values[0], "target_name": "nll"}

    def points(axes: Any) -> int:
        return max(len(collection.get_offsets()) for collection in axes.collections)

    try:
        three = plots.plot_pareto_front(study)
        assert [three.get_xlabel(), three.get_ylabel(), three.get_zlabel()] == ["nll", "latency_ms", "params"]
        two = plots.plot_pareto_front(
            study, targets=lambda t: (t.values[0], t.values[2]), target_names=["nll", "params"]
        )
        assert [two.get_xlabel(), two.get_ylabel()] == ["nll", "params"]
        assert sum(len(c.get_offsets()) for c in two.collections) == len(complete)
        assert points(plots.plot_optimization_history(study, **quality)) == len(complete)
        assert points(plots.plot_slice(study, params=["lr"], **quality)) == len(complete)
        assert len(plots.plot_slice(study, **quality)) == len({k for t in study.trials for k in t.params})
        bars = plots.plot_param_importances(study, **quality)
        assert "lr" in [label.get_text() for label in bars.get_yticklabels()]
        worst = np.max([t.values for t in complete], axis=0) * 1.1
        volumes = plots.plot_hypervolume_history(study, list(worst)).lines[0].get_ydata()
        assert (np.diff(volumes) >= 0).all() and volumes[-1] > 0
    finally:
        plt.close("all")


def planned(chain: Chain, search: dict[str, Any]) -> Plan:
    """A plan over two capacities that trains nothing."""
    config = chain.config.model_copy(update={"search": Search(**search)})
    costs = {p.name: Profile.model_validate(p.metrics) for p in chain.profiles}
    capacities = list(config.student.capacities)
    return Plan(config, config.search, 9_999, chain.data, None, (), capacities, costs, "cpu", 4)


def history(count: int) -> list[Trial]:
    """So many trials: proposals at random, judged by a bowl; every fifth was stopped or failed."""
    generator = np.random.default_rng(0)
    trials = []
    for number in range(count):
        proposal = {"temperature": float(generator.uniform(1, 8)), "alpha": float(generator.uniform(0.3, 1))}
        state = ("stopped", "fail")[number // 5 % 2] if number % 5 == 0 else "complete"
        nll = 0.5 + 0.1 * (proposal["temperature"] - 3) ** 2 + (number % 2)
        capacity = ("small", "large")[number % 2]
        trials.append(a_trial(capacity, number=number, proposal=proposal, state=state, nll=nll))
    return trials


@pytest.mark.parametrize("count", [MEMORY // 2, 3 * MEMORY])
def test_a_long_study_is_remembered_in_part(chain: Chain, count: int) -> None:
    """contract: the proposals see the best and the latest trials that did not fail, at most `MEMORY`, in their order;
    values are in units of the capacity's median; they go where trials were good."""
    plan = planned(
        chain, {"temperature": {"low": 1, "high": 8}, "alpha": {"low": 0.3, "high": 1}, "initial_points": []}
    )
    before = history(count)
    usable = [t for t in before if t.state != "fail"]
    seen = seen_trials(before, "nll")
    numbers = [trial.number for trial, _ in seen]
    assert numbers == sorted(set(numbers)) and min(3 * MEMORY // 4, len(usable)) <= len(numbers) <= MEMORY
    complete = [t for t in usable if t.state == "complete"]
    medians = {c: np.median([t.nll for t in complete if t.capacity == c]) for c in ("small", "large")}
    values = {t.number: t.objective("nll") / medians[t.capacity] for t in complete}
    best = sorted(values, key=values.__getitem__)
    latest = [t.number for t in usable]
    assert set(numbers) >= {*best[: MEMORY // 4], *latest[-MEMORY // 2 :]}
    for trial, value in seen:
        assert trial.number not in values or value == pytest.approx(values[trial.number])

    def proposed() -> list[Any]:
        proposals = Proposals(plan.knobs, plan.quality, plan.config.seed, len(plan.capacities), before)
        return [proposals.propose(count + k) for k in range(8)]

    drawn = proposed()
    assert drawn == proposed()
    assert np.mean([abs(p["temperature"] - 3) < 1.5 for p in drawn]) > 0.6


def test_fixed_losses_are_no_choice(search_with: Callable[..., Handle], store: Store) -> None:
    """golden: a single loss is not shown to Optuna, its ranges are; with everything fixed there is one trial each."""
    losses = [{"name": "dkd", "options": {"beta": {"low": 1, "high": 4}}}]
    one = search_with(store, {"trials": 2, "epochs": 1, "losses": losses, "initial_points": []})
    for trial in load(one, store).trials:
        assert set(trial.params) == {"capacity", "temperature", "alpha", "dkd.beta"}
    assert {t.setting["loss"]["name"] for t in SearchResult.read(one).trials} == {"dkd"}
    fixed = {"trials": 2, "epochs": 1, "temperature": 2.5, "alpha": 0.5, "losses": [{"name": "mse"}]}
    none = search_with(store, fixed)
    assert [t.params for t in load(none, store).trials] == [{"capacity": "small"}, {"capacity": "large"}]
    setting = SearchResult.read(none).trials[0].setting
    assert (setting["temperature"], setting["alpha"], setting["loss"]) == (2.5, 0.5, {"name": "mse", "clip": 10.0})
