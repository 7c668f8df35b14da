"""Stage `search`: one Optuna study over temperature, alpha, capacity, learning rate and weight decay.

The study has several objectives, but latency, parameters and MACs are facts of the architecture: they are measured
once per capacity. So every capacity gets an equal share of the trials, in turn, and within them a TPE proposes the
other knobs by validation quality alone. A proposal depends on nothing but finished trials, so a killed study
continues as if it had not been killed.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from distillery.config import KNOBS, Capacity, Experiment, Range, Search
from distillery.dataset import Dataset
from distillery.errors import InputError
from distillery.pareto import front
from distillery.profile import cost
from distillery.store import Handle, Store, fingerprint, write_json
from distillery.students import Setting
from distillery.teachers import build_network, content_key, derive_seed
from distillery.trials import Job, train_trial

VERSION = 1
START_UP = 8  # proposals at random before the TPE has enough to go on

log = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.WARNING)

OnTrial = Callable[[dict[str, Any]], None]
RunMany = Callable[[Callable[..., Any], list[tuple[Any, ...]]], list[Any]]


def profile_capacity(capacity: Capacity, data: Handle, runs: int, store: Store) -> Handle:
    """What a capacity costs, measured once: params, macs, size_mb and latency, in the handle's metrics."""

    def build(work: Path) -> dict[str, Any]:
        dataset = Dataset(data)
        network = build_network(capacity, dataset.spec, 0)
        rows = dataset.inputs[dataset.splits["val_search"][:64]]
        return cost(network, dataset.spec, rows, runs)

    return store.stage("profile", capacity.name, [VERSION, content_key(capacity), runs, data.fingerprint], build)


def feasible(config: Search, profiles: list[Handle]) -> list[str]:
    """Names of the capacities within the budgets.

    Raises:
        InputError: There is none.
    """
    names = []
    for profile in profiles:
        slow = config.max_latency_ms is not None and profile.metrics["latency_ms_p50"] > config.max_latency_ms
        large = config.max_params is not None and profile.metrics["params"] > config.max_params
        if not slow and not large:
            names.append(profile.name)
    if not names:
        measured = ", ".join(
            f"{p.name}: {p.metrics['latency_ms_p50']:.3g} ms, {p.metrics['params']} parameters" for p in profiles
        )
        raise InputError(
            f"search: expected a capacity within max_latency_ms={config.max_latency_ms} and "
            f"max_params={config.max_params}, got {measured}"
        )
    return names


def run_search(
    config: Experiment,
    data: Handle,
    ensemble: Handle,
    train_logits: list[Handle],
    profiles: list[Handle],
    store: Store,
    *,
    device: str = "cpu",
    run_many: RunMany | None = None,
    on_trial: OnTrial | None = None,
) -> Handle:
    """``search.json``: all trials, the front, the best setting of each capacity and the capacity that is chosen.

    Args:
        config: Its `search`, `student` and `seed`.
        data: Stage `data`. Test rows are never read.
        ensemble: Stage `ensemble`.
        train_logits: The members' logits on train.
        profiles: `profile_capacity` of every capacity.
        store: Where the study's database and the result lie.
        device: Where to train.
        run_many: Runs the trials of a round, perhaps at the same time; by default one after another.
        on_trial: Called with the record of each finished trial.

    Raises:
        InputError: No capacity is within the budgets.
    """
    allowed = feasible(config.search, profiles)
    upstream = [data.fingerprint, ensemble.fingerprint, [h.fingerprint for h in train_logits]]
    models = [content_key(c) for c in config.student.capacities]
    key = [VERSION, config.search, config.student, models, config.seed, allowed, upstream]
    plan = _Plan(
        config,
        data,
        ensemble,
        tuple(train_logits),
        [c for c in config.student.capacities if c.name in allowed],
        {p.name: p.metrics for p in profiles},
        device,
    )

    def build(work: Path) -> dict[str, Any]:
        study = open_study(store, config.name, fingerprint("search", key), config.search)
        _drop_unfinished(study)
        while (number := len(records_of(study))) < config.search.trials:
            for record in _run_round(study, plan, number, run_many or _one_after_another):
                if on_trial is not None:
                    on_trial(record)
        return _conclude(work, study, records_of(study), config)

    return store.stage("search", config.name, key, build)


def open_study(store: Store, name: str, digest: str, config: Search) -> optuna.Study:
    """The study of this experiment, new or as it was left. One database holds all studies of a store."""
    store.root.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{store.root / 'optuna.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
    study = optuna.create_study(
        study_name=f"{name}-{digest[:12]}",
        storage=storage,
        directions=["minimize"] * len(config.objectives),
        load_if_exists=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(config.objectives))
    return study


def records_of(study: optuna.Study) -> list[dict[str, Any]]:
    """The records of all finished trials, by number."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
    return sorted((t.user_attrs["record"] for t in trials if "record" in t.user_attrs), key=lambda r: r["number"])


def _drop_unfinished(study: optuna.Study) -> None:
    # A trial that was running when its process was killed is closed; its place in the plan is taken by a new one.
    while study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.ask()  # takes one that was planned only, which can then be closed like the others
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _one_after_another(function: Callable[[Job], dict[str, Any]], jobs: list[tuple[Job]]) -> list[dict[str, Any]]:
    return [function(*job) for job in jobs]


def _run_round(study: optuna.Study, plan: _Plan, number: int, run_many: RunMany) -> list[dict[str, Any]]:
    """Runs the trials `number`, `number` + 1, ... of one round: at most one for each capacity.

    Their proposals rest on earlier rounds alone, so they may run at the same time, in any number of processes.
    """
    end = min(number - number % len(plan.capacities) + len(plan.capacities), plan.config.search.trials)
    before = [r for r in records_of(study) if r["number"] < number - number % len(plan.capacities)]
    begun = [_begin(study, plan, n, before) for n in range(number, end)]
    outcomes = run_many(train_trial, [(job,) for _, _, job in begun])
    finished = []
    for (trial, record, _), outcome in zip(begun, outcomes, strict=True):
        record |= outcome
        trial.set_user_attr("record", record)
        if record["state"] == "complete":
            study.tell(trial, [objective(record, name) for name in plan.config.search.objectives])
        else:
            log.warning("trial %d failed: %s", record["number"], record["reason"])
            study.tell(trial, state=TrialState.FAIL)
        finished.append(record)
    return finished


@dataclass(frozen=True)
class _Plan:
    """What does not change from trial to trial."""

    config: Experiment
    data: Handle
    ensemble: Handle
    train_logits: tuple[Handle, ...]
    capacities: list[Capacity]
    costs: dict[str, dict[str, Any]]
    device: str


def _begin(
    study: optuna.Study, plan: _Plan, number: int, before: list[dict[str, Any]]
) -> tuple[optuna.Trial, dict[str, Any], Job]:
    search, capacity = plan.config.search, plan.capacities[number % len(plan.capacities)]
    space = _space(search)
    knobs = _propose(plan.config, space, number, number // len(plan.capacities), before)
    study.enqueue_trial({"capacity": capacity.name, **knobs})
    names = CategoricalDistribution([c.name for c in plan.capacities])
    trial = study.ask({"capacity": names, **space})
    fixed = {k: getattr(search, k) for k in KNOBS if k not in knobs}
    setting = Setting(**{**fixed, **knobs})
    record = {
        "number": number,
        "capacity": capacity.name,
        "setting": setting.model_dump(),
        **plan.costs[capacity.name],
    }
    job = Job(plan.config, plan.data, plan.ensemble, plan.train_logits, capacity, setting, plan.device)
    return trial, record, job


def objective(record: dict[str, Any], name: str) -> float:
    """The value of one objective of a finished trial; all are minimised."""
    values = {"error": 1 - record["accuracy"], "latency_ms": record["latency_ms_p50"]}
    return float(values[name] if name in values else record[name])


def _space(config: Search) -> dict[str, BaseDistribution]:
    spaces = {k: getattr(config, k) for k in KNOBS}
    return {k: FloatDistribution(s.low, s.high, log=s.log) for k, s in spaces.items() if isinstance(s, Range)}


def _propose(
    config: Experiment, space: dict[str, BaseDistribution], number: int, turn: int, before: list[dict[str, Any]]
) -> dict[str, float]:
    """Values for the searched knobs, from the finished trials of all capacities.

    Qualities are made comparable by dividing by the capacity's median.
    """
    if not space:
        return {}
    sampler = optuna.samplers.TPESampler(
        seed=derive_seed(config.seed, "trial", number), n_startup_trials=START_UP, multivariate=True
    )
    view = optuna.create_study(sampler=sampler)
    complete = [r for r in before if r["state"] == "complete"]
    values = {r["number"]: objective(r, config.search.objectives[0]) for r in complete}
    for capacity in dict.fromkeys(r["capacity"] for r in complete):
        mine = [r for r in complete if r["capacity"] == capacity]
        median = max(float(np.median([values[r["number"]] for r in mine])), 1e-12)
        for record in mine:
            params = {k: record["setting"][k] for k in space}
            value = values[record["number"]] / median
            view.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
    proposal = dict(view.ask(space).params)
    if turn < len(config.search.known_good):
        known = config.search.known_good[turn]
        proposal |= {k: v for k, v in known.items() if k in space and space[k]._contains(v)}
    return proposal


def _conclude(work: Path, study: optuna.Study, records: list[dict[str, Any]], config: Experiment) -> dict[str, Any]:
    complete = [r for r in records if r["state"] == "complete"]
    if not complete:
        raise FloatingPointError(f"search: all {len(records)} trials diverged: {records[0]['reason']}")
    quality = config.search.objectives[0]
    points = np.array([[objective(r, name) for name in config.search.objectives] for r in complete])
    on_front = [complete[i]["number"] for i in front(points)]
    best = {
        capacity: min((r for r in complete if r["capacity"] == capacity), key=lambda r: objective(r, quality))
        for capacity in dict.fromkeys(r["capacity"] for r in complete)
    }
    chosen = _choose(list(best.values()), config.search)
    write_json(
        work / "search.json",
        {
            "study": study.study_name,
            "objectives": config.search.objectives,
            "trials": records,
            "front": on_front,
            "best": {name: record["number"] for name, record in best.items()},
            "chosen": chosen["capacity"],
        },
    )
    return {"trials": len(records), "nll": chosen["nll"], "accuracy": chosen["accuracy"]}


def _choose(best: list[dict[str, Any]], config: Search) -> dict[str, Any]:
    quality = config.objectives[0]
    top = min(best, key=lambda r: objective(r, quality))
    if config.choose == "best":
        return top
    spread = top["nll_se"] if quality == "nll" else (top["accuracy"] * (1 - top["accuracy"])) ** 0.5
    near = [r for r in best if objective(r, quality) <= objective(top, quality) + spread]
    return min(near, key=lambda r: r["params"])
