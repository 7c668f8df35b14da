"""Studies: what is proposed, who is stopped, and Optuna's own tools on the result."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots

from distillery.store import Handle, Store
from distillery.study import objective

TRIALS = 24
VIEWS = {"count": 3, "transforms": [{"name": "noise", "size": 0.3}]}
RICH: dict[str, Any] = {
    "trials": TRIALS,
    "epochs": 1,
    "temperature": {"low": 1, "high": 8, "log": True},
    "lr": {"low": 0.005, "high": 0.02, "log": True},
    "weight_decay": 0.05,
    "noise": {"low": 0.0, "high": 0.3},
    "share": {"low": 0.2, "high": 0.8},
    "label_smoothing": {"low": 0.0, "high": 0.2},
    "losses": [
        {"name": "kd"},
        {"name": "dkd", "options": {"beta": {"low": 0.5, "high": 8, "log": True}, "target_weight": 0.5}},
        {"name": "mse", "options": {"clip": {"low": 2, "high": 10}}},
    ],
    "known_good": [{"loss": "dkd", "temperature": 3.0}, {"loss": "mse", "alpha": 0.5, "weight_decay": 0.7}],
}
HALVED: dict[str, Any] = {
    "trials": TRIALS,
    "epochs": 4,
    "lr": {"low": 0.0005, "high": 0.05, "log": True},
    "halving": {"eta": 2, "rungs": 2, "grace": 3},
}


def load(handle: Handle, store: Store) -> optuna.Study:
    """The study as a user of Optuna opens it."""
    return optuna.load_study(
        study_name=handle.json("search.json")["study"], storage=f"sqlite:///{store.root}/optuna.db"
    )


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
        content = handle.json("search.json")
        found[name] = SimpleNamespace(
            handle=handle, store=store, jobs=jobs, content=content, trials=content["trials"], optuna=load(handle, store)
        )
    return found


def test_every_knob_is_in_its_range(studies: dict[str, SimpleNamespace]) -> None:
    """property: searched knobs vary within their ranges, fixed ones and fixed options have their value."""
    trials = studies["rich"].trials
    for knob in ("temperature", "lr", "noise", "share", "label_smoothing"):
        values = [t["setting"][knob] for t in trials]
        assert RICH[knob]["low"] <= min(values) < max(values) <= RICH[knob]["high"]
    assert {t["setting"]["weight_decay"] for t in trials} == {0.05}
    assert {t["setting"]["loss"]["name"] for t in trials} == {"kd", "dkd", "mse"}
    for trial in trials:
        loss = trial["setting"]["loss"]
        options = {k: v for k, v in loss.items() if k != "name"}
        if loss["name"] == "dkd":
            assert options == {"beta": trial["proposal"]["dkd.beta"], "target_weight": 0.5}
        else:
            assert options == ({"clip": trial["proposal"]["mse.clip"]} if loss["name"] == "mse" else {})
    assert [job.setting.model_dump() for job in studies["rich"].jobs] == [t["setting"] for t in trials]


def test_known_settings_come_first_with_their_loss(studies: dict[str, SimpleNamespace]) -> None:
    """golden: every capacity begins with them; what they leave open is drawn; a fixed knob keeps its value."""
    trials = studies["rich"].trials
    assert [t["capacity"] for t in trials[:4]] == ["small", "large"] * 2
    assert [t["setting"]["loss"]["name"] for t in trials[:4]] == ["dkd", "dkd", "mse", "mse"]
    assert [t["setting"]["temperature"] for t in trials[:2]] == [3.0, 3.0]
    assert [t["setting"]["alpha"] for t in trials[2:4]] == [0.5, 0.5]
    assert trials[2]["setting"]["weight_decay"] == 0.05
    assert trials[0]["setting"]["alpha"] != trials[1]["setting"]["alpha"]


def test_optuna_sees_the_options_of_the_loss_in_use_only(studies: dict[str, SimpleNamespace]) -> None:
    """contract: the loss is a choice, its options are conditional; all values are those of the record."""
    seen = studies["rich"]
    everywhere = {"capacity", "temperature", "alpha", "lr", "noise", "share", "label_smoothing", "loss"}
    conditional = {"kd": set(), "dkd": {"dkd.beta"}, "mse": {"mse.clip"}}
    for trial, record in zip(seen.optuna.trials, seen.trials, strict=True):
        assert set(trial.params) == everywhere | conditional[trial.params["loss"]]
        shown = {"capacity": record["capacity"], **record["proposal"]}
        assert trial.params == {k: shown[k] for k in trial.params}
        assert trial.distributions["loss"] == CategoricalDistribution(["kd", "dkd", "mse"])
        assert trial.distributions["lr"] == FloatDistribution(0.005, 0.02, log=True)
        assert trial.values == [objective(record, name) for name in ("nll", "latency_ms", "params")]


def test_limits_come_from_earlier_trials_of_the_same_capacity(studies: dict[str, SimpleNamespace]) -> None:
    """reference: at each rung the median of what trials of earlier rounds had there, none before `grace` of them."""
    halved = studies["halved"]
    limits = []
    for job, record in zip(halved.jobs, halved.trials, strict=True):
        first = record["number"] - record["number"] % 2
        before = [t for t in halved.trials[:first] if t["capacity"] == record["capacity"]]
        for (epoch, limit), expected in zip(job.rungs, (1, 2), strict=True):
            curve = sorted(t["curve"][str(epoch)] for t in before if str(epoch) in t["curve"])
            middle = (curve[(len(curve) - 1) // 2] + curve[len(curve) // 2]) / 2 if len(curve) >= 3 else np.inf
            assert epoch == expected and limit == pytest.approx(middle)
            limits.append(limit)
    assert np.isinf(limits).any() and np.isfinite(limits).any()


def test_weak_trials_stop_and_are_nobodys_best(studies: dict[str, SimpleNamespace]) -> None:
    """contract: stopped at the first rung above its limit, with its curve; neither best nor on the front nor ranked."""
    halved = studies["halved"]
    for job, record in zip(halved.jobs, halved.trials, strict=True):
        above = [str(epoch) for epoch, limit in job.rungs if record["curve"].get(str(epoch), 0) > limit]
        assert (record["state"] == "stopped") == bool(above)
        assert list(record["curve"]) == (["1"] if above == ["1"] else ["1", "2"])
        assert above in ([], list(record["curve"])[-1:])
    stopped = {t["number"] for t in halved.trials if t["state"] == "stopped"}
    complete = {t["number"] for t in halved.trials if t["state"] == "complete"}
    assert len(stopped) >= 4 and stopped | complete == set(range(TRIALS))
    ranked = [number for numbers in halved.content["ranked"].values() for number in numbers]
    assert set(ranked) == complete and set(halved.content["front"]) <= complete
    for trial in halved.optuna.trials:
        assert trial.state == (TrialState.PRUNED if trial.number in stopped else TrialState.COMPLETE)


def test_a_killed_study_with_halving_goes_on(
    studies: dict[str, SimpleNamespace], search_with: Callable[..., Handle], store: Store
) -> None:
    """resume: killed after some rounds, and between a record and its end in Optuna, it ends with the same trials."""
    calls: list[int] = []

    def stops(record: dict[str, Any]) -> None:
        calls.append(record["number"])
        if len(calls) == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_with(store, HALVED, on_trial=stops)
    name = studies["halved"].content["study"]
    half = optuna.load_study(study_name=name, storage=f"sqlite:///{store.root}/optuna.db")
    record = {**studies["halved"].trials[14]}
    assert len(half.trials) == 14
    trial = half.ask()
    trial.set_user_attr("record", record)  # the process ended before it could tell
    handle = search_with(store, HALVED)
    keys = ("number", "capacity", "setting", "state", "nll", "curve")
    again = handle.json("search.json")["trials"]
    assert [[t[k] for k in keys] for t in again] == [[t[k] for k in keys] for t in studies["halved"].trials]
    state = TrialState.COMPLETE if record["state"] == "complete" else TrialState.PRUNED
    assert load(handle, store).trials[14].state == state


@pytest.mark.parametrize("name", ["rich", "halved"])
def test_optuna_and_the_result_agree(studies: dict[str, SimpleNamespace], name: str) -> None:
    """reference: Optuna's best trials are search.json's front, and the objectives have their names."""
    seen = studies[name]
    best = sorted(t.user_attrs["record"]["number"] for t in seen.optuna.best_trials)
    assert best == sorted(seen.content["front"])
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


def test_fixed_losses_are_no_choice(search_with: Callable[..., Handle], store: Store) -> None:
    """golden: a single loss is not shown to Optuna, its ranges are; with everything fixed there is one trial each."""
    losses = [{"name": "dkd", "options": {"beta": {"low": 1, "high": 4}}}]
    one = search_with(store, {"trials": 2, "epochs": 1, "losses": losses, "known_good": []})
    for trial in load(one, store).trials:
        assert set(trial.params) == {"capacity", "temperature", "alpha", "dkd.beta"}
    assert {t["setting"]["loss"]["name"] for t in one.json("search.json")["trials"]} == {"dkd"}
    fixed = {"trials": 2, "epochs": 1, "temperature": 2.5, "alpha": 0.5, "losses": [{"name": "mse"}]}
    none = search_with(store, fixed)
    assert [t.params for t in load(none, store).trials] == [{"capacity": "small"}, {"capacity": "large"}]
    setting = none.json("search.json")["trials"][0]["setting"]
    assert (setting["temperature"], setting["alpha"], setting["loss"]) == (2.5, 0.5, {"name": "mse", "clip": 10.0})
