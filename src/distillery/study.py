"""An Optuna study of students, or of the same networks without a teacher.

The study has several objectives, but latency, parameters and MACs are facts of the architecture: they are measured
once per capacity. So every capacity gets an equal share of the trials, in turn, and within them a TPE proposes the
other knobs by validation quality alone. A proposal, and where a trial may be stopped, depend on nothing but trials of
earlier rounds, so a round may run in any number of processes, and a killed study continues as if it had not been.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from distillery.config import Capacity, Experiment
from distillery.space import Knobs, Loss, Range, Setting, Space
from distillery.store import Handle, Store
from distillery.teachers import derive_seed
from distillery.trials import Job, train_trial

START_UP = 8  # proposals at random before the TPE has enough to go on
STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "fail": TrialState.FAIL}

log = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.WARNING)

OnTrial = Callable[[dict[str, Any]], None]
RunMany = Callable[[Callable[..., Any], list[tuple[Any, ...]]], list[Any]]


@dataclass(frozen=True)
class Plan:
    """What does not change from trial to trial.

    Attributes:
        knobs: What is searched.
        ensemble: None for a study without a teacher.
        costs: What each capacity costs, by name.
    """

    config: Experiment
    knobs: Knobs
    trials: int
    data: Handle
    ensemble: Handle | None
    logits: tuple[Handle, ...]
    capacities: list[Capacity]
    costs: dict[str, dict[str, Any]]
    device: str


def run_study(study: optuna.Study, plan: Plan, run_many: RunMany, on_trial: OnTrial | None) -> list[dict[str, Any]]:
    """Runs what is left of a study and returns the records of all its trials, by number."""
    _close_unfinished(study, plan.config.search.objectives)
    while (number := len(records_of(study))) < plan.trials:
        for record in _run_round(study, plan, number, run_many):
            if on_trial is not None:
                on_trial(record)
    return records_of(study)


def open_study(store: Store, name: str, objectives: tuple[str, ...]) -> optuna.Study:
    """The study of this name, new or as it was left. One database holds all studies of a store."""
    store.root.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{store.root / 'optuna.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
    study = optuna.create_study(
        study_name=name, storage=storage, directions=["minimize"] * len(objectives), load_if_exists=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(objectives))
    return study


def records_of(study: optuna.Study) -> list[dict[str, Any]]:
    """The records of all finished trials, by number."""
    trials = study.get_trials(deepcopy=False, states=tuple(STATES.values()))
    return sorted((t.user_attrs["record"] for t in trials if "record" in t.user_attrs), key=lambda r: r["number"])


def _close_unfinished(study: optuna.Study, objectives: tuple[str, ...]) -> None:
    # A trial that was running when its process was killed is closed; its place in the plan is taken by a new one,
    # unless its record was there already.
    while study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.ask()  # takes one that was planned only, which can then be closed like the others
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        _tell(study, trial.number, trial.user_attrs.get("record", {"state": "fail"}), objectives)


def _tell(study: optuna.Study, number: int, record: dict[str, Any], objectives: tuple[str, ...]) -> None:
    if record["state"] == "complete":
        study.tell(number, [objective(record, name) for name in objectives])
    else:
        study.tell(number, state=STATES[record["state"]], skip_if_finished=True)


def one_after_another(function: Callable[[Job], dict[str, Any]], jobs: list[tuple[Job]]) -> list[dict[str, Any]]:
    """Runs the trials of a round in this process."""
    return [function(*job) for job in jobs]


def _run_round(study: optuna.Study, plan: Plan, number: int, run_many: RunMany) -> list[dict[str, Any]]:
    """Runs the trials `number`, `number` + 1, ... of one round: at most one for each capacity."""
    first = number - number % len(plan.capacities)
    before = [r for r in records_of(study) if r["number"] < first]
    begun = [_begin(study, plan, n, before) for n in range(number, min(first + len(plan.capacities), plan.trials))]
    outcomes = run_many(train_trial, [(job,) for _, _, job in begun])
    finished = []
    for (trial, record, _), outcome in zip(begun, outcomes, strict=True):
        record |= outcome
        trial.set_user_attr("record", record)
        _tell(study, trial.number, record, plan.config.search.objectives)
        if record["state"] == "fail":
            log.warning("trial %d failed: %s", record["number"], record["reason"])
        finished.append(record)
    return finished


def _begin(
    study: optuna.Study, plan: Plan, number: int, before: list[dict[str, Any]]
) -> tuple[optuna.Trial, dict[str, Any], Job]:
    capacity = plan.capacities[number % len(plan.capacities)]
    space = space_of(plan)
    proposal = _propose(plan, space, number, before)
    # Of the losses' options, only those of the loss in use are shown to Optuna.
    setting = setting_of(plan, proposal)
    loss = setting.loss.name if setting.loss is not None else None
    used = {k: v for k, v in proposal.items() if "." not in k or k.split(".")[0] == loss}
    study.enqueue_trial({"capacity": capacity.name, **used})
    names = CategoricalDistribution([c.name for c in plan.capacities])
    trial = study.ask({"capacity": names, **{k: space[k] for k in used}})
    record = {
        "number": number,
        "capacity": capacity.name,
        "setting": setting.model_dump(),
        "proposal": proposal,
        **plan.costs[capacity.name],
    }
    rungs = _rungs(plan, [r for r in before if r["capacity"] == capacity.name])
    job = Job(plan.config, plan.data, plan.ensemble, plan.logits, capacity, setting, plan.device, rungs)
    return trial, record, job


def objective(record: dict[str, Any], name: str) -> float:
    """The value of one objective of a finished trial; all are minimised."""
    values = {"error": 1 - record["accuracy"], "latency_ms": record["latency_ms_p50"]}
    return float(values[name] if name in values else record[name])


def _rungs(plan: Plan, before: list[dict[str, Any]]) -> tuple[tuple[int, float], ...]:
    halving = plan.config.search.halving
    if halving is None:
        return ()
    epochs = plan.config.search.epochs or plan.config.student.recipe.epochs
    limits = []
    for epoch in halving.epochs(epochs):
        seen = [r["curve"][str(epoch)] for r in before if str(epoch) in r["curve"]]
        limits.append((epoch, float(np.quantile(seen, 1 / halving.eta)) if len(seen) >= halving.grace else np.inf))
    return tuple(limits)


def space_of(plan: Plan) -> dict[str, BaseDistribution]:
    """What varies between the trials of a capacity, by Optuna's names; an option of a loss is ``loss.option``."""
    spaces = {k: _distribution(s) for k, s in plan.knobs.ranges().items() if isinstance(s, Range)}
    losses = getattr(plan.knobs, "losses", ())
    if len(losses) > 1:
        spaces["loss"] = CategoricalDistribution([loss.name for loss in losses])
    for loss in losses:
        spaces |= {f"{loss.name}.{k}": _distribution(s) for k, s in loss.options.items() if isinstance(s, Range)}
    return spaces


def _distribution(space: Range) -> BaseDistribution:
    return FloatDistribution(space.low, space.high, log=space.log)


def setting_of(plan: Plan, proposal: dict[str, Any]) -> Setting:
    """The setting that a proposal and the fixed knobs make."""
    knobs: dict[str, Space] = plan.knobs.ranges()
    values: dict[str, Any] = {k: proposal[k] if isinstance(s, Range) else s for k, s in knobs.items()}
    losses = {loss.name: loss for loss in getattr(plan.knobs, "losses", ())}
    if losses:
        name = proposal.get("loss", next(iter(losses)))
        options = {k: proposal.get(f"{name}.{k}", s) for k, s in losses[name].options.items()}
        values["loss"] = Loss(name=name, **options)
    return Setting(**values)


def _propose(
    plan: Plan, space: dict[str, BaseDistribution], number: int, before: list[dict[str, Any]]
) -> dict[str, Any]:
    """Values for the searched knobs, from the finished trials of all capacities.

    Qualities are made comparable by dividing by the capacity's median; a stopped trial counts as its worst one.
    """
    if not space:
        return {}
    sampler = optuna.samplers.TPESampler(
        seed=derive_seed(plan.config.seed, "trial", number), n_startup_trials=START_UP, multivariate=True
    )
    view = optuna.create_study(sampler=sampler)
    for capacity in dict.fromkeys(r["capacity"] for r in before):
        mine = [r for r in before if r["capacity"] == capacity and r["state"] != "fail"]
        complete = {
            r["number"]: objective(r, plan.config.search.objectives[0]) for r in mine if r["state"] == "complete"
        }
        if not complete:
            continue
        median = max(float(np.median(list(complete.values()))), 1e-12)
        for record in mine:
            value = complete.get(record["number"], max(complete.values())) / median
            trial = optuna.trial.create_trial(params=record["proposal"], distributions=space, value=value)
            view.add_trial(trial)
    proposal = dict(view.ask(space).params)
    turn = number // len(plan.capacities)
    if turn < len(plan.knobs.known_good):
        known = plan.knobs.known_good[turn]
        proposal |= {k: v for k, v in known.items() if k in space and space[k]._contains(space[k].to_internal_repr(v))}
    return proposal
