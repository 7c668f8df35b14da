"""An Optuna study of students, or of the same networks without a teacher.

The study has several objectives, but latency, parameters and MACs are facts of the architecture: they are measured
once per capacity. So every capacity gets an equal share of the trials, in turn, and within them a TPE proposes the
other knobs by validation quality alone. In a round every capacity trains `cohort` trials, together where its networks
can be stacked. Proposals depend on nothing but the trials of earlier rounds, and where a trial is stopped on those and
on its own cohort: a round may run in any number of processes, and a killed study continues as if it had not been.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import TrialState

from distillery.config.experiment import Capacity, Experiment
from distillery.config.search_space import Knobs, Range, Setting
from distillery.errors import InputError
from distillery.stages.search.journal import journal_of
from distillery.stages.search.trials import Job, train_trials
from distillery.store import Handle, Store
from distillery.training.networks import derive_seed
from distillery.training.stack_size import stacks

START_UP = 8  # proposals at random before the TPE has enough to go on
MEMORY = 128  # trials that the TPE sees, the best and the latest: its cost grows with their number
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
        cohort: Trials of a capacity in one round.
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
    cohort: int

    @property
    def width(self) -> int:
        """Trials in a round."""
        return self.cohort * len(self.capacities)


def cohort_of(config: Experiment, capacities: list[Capacity], kind: str) -> int:
    """Trials of a capacity that are proposed at once: several only where they train together."""
    return config.search.cohort if all(stacks(c, kind) for c in capacities) else 1


def run_study(study: optuna.Study, plan: Plan, run_many: RunMany, on_trial: OnTrial | None) -> list[dict[str, Any]]:
    """Runs what is left of a study and returns the records of all its trials, by number.

    A round is written, and `on_trial` told of it, while the next one trains.
    """
    records, untold = records_of(study), list[dict[str, Any]]()
    with ThreadPoolExecutor(1, "round") as aside:
        while len(records) < plan.trials:
            coming = _Round(plan, records)
            outcomes = aside.submit(run_many, train_trials, [(job,) for job in coming.jobs])
            _tell(study, plan, untold, on_trial)
            untold = coming.finished(outcomes.result())
            records += untold
    _tell(study, plan, untold, on_trial)
    return records_of(study)


def open_study(store: Store, name: str, objectives: tuple[str, ...], database: str | None = None) -> optuna.Study:
    """The study of this name, new or as it was left.

    One journal holds all studies of a store; with a `database`, an address as SQLAlchemy takes it, they are there.
    """
    study = optuna.create_study(
        study_name=name,
        storage=journal_of(store) if database is None else _in_database(database),
        directions=["minimize"] * len(objectives),
        load_if_exists=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(objectives))
    return study


def _in_database(address: str) -> optuna.storages.RDBStorage:
    try:
        return optuna.storages.RDBStorage(address)
    except RuntimeError as error:
        # Optuna, MLflow and Prefect all keep the version of their tables under one name.
        raise InputError(f"the studies' database: expected one of Optuna's own, got another's: {error}") from error


def records_of(study: optuna.Study) -> list[dict[str, Any]]:
    """The records of all finished trials, by number."""
    trials = study.get_trials(deepcopy=False, states=tuple(STATES.values()))
    return sorted((t.user_attrs["record"] for t in trials if "record" in t.user_attrs), key=lambda r: r["number"])


def one_after_another(function: Callable[[Job], Any], jobs: list[tuple[Job]]) -> list[Any]:
    """Runs the jobs of a round in this process."""
    return [function(*job) for job in jobs]


class _Round:
    """The round that comes after the records of a study.

    Of one that was cut off while it was written, all trials run again, and those that are there are not written again.
    """

    def __init__(self, plan: Plan, known: list[dict[str, Any]]) -> None:
        self._number = len(known)
        first = self._number - self._number % plan.width
        before = [r for r in known if r["number"] < first]
        proposals = _Proposals(plan, before)
        self._records = [proposals.record(n) for n in range(first, min(first + plan.width, plan.trials))]
        mine = {c.name: [r for r in self._records if r["capacity"] == c.name] for c in plan.capacities}
        # The longest first, so that all end together.
        wanted = sorted((c for c in plan.capacities if mine[c.name]), key=lambda c: -plan.costs[c.name]["params"])
        self._trained = [record for c in wanted for record in mine[c.name]]
        self.jobs = [_job(plan, c, mine[c.name], before) for c in wanted]

    def finished(self, outcomes: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """The new records, by number, given what came of the trials of each job."""
        for record, outcome in zip(self._trained, itertools.chain(*outcomes), strict=True):
            record |= outcome
        return [record for record in self._records if record["number"] >= self._number]


def _tell(study: optuna.Study, plan: Plan, records: list[dict[str, Any]], on_trial: OnTrial | None) -> None:
    space = space_of(plan.knobs)
    for record in records:
        study.add_trial(_told(plan, space, record))
        if record["state"] == "fail":
            log.warning("trial %d failed: %s", record["number"], record["reason"])
    for record in records:
        if on_trial is not None:
            on_trial(record)


def _job(plan: Plan, capacity: Capacity, records: list[dict[str, Any]], before: list[dict[str, Any]]) -> Job:
    settings = tuple(Setting(**record["setting"]) for record in records)
    rungs = _rungs(plan, [r for r in before if r["capacity"] == capacity.name])
    return Job(plan.config, plan.data, plan.ensemble, plan.logits, capacity, settings, plan.device, rungs)


def _told(plan: Plan, space: dict[str, BaseDistribution], record: dict[str, Any]) -> optuna.trial.FrozenTrial:
    """A finished trial as Optuna keeps it. Of the losses' options, only those of the loss in use are shown."""
    loss = (record["setting"]["loss"] or {}).get("name")
    used = {k: v for k, v in record["proposal"].items() if "." not in k or k.split(".")[0] == loss}
    names = CategoricalDistribution([c.name for c in plan.capacities])
    complete = record["state"] == "complete"
    return optuna.trial.create_trial(
        state=STATES[record["state"]],
        params={"capacity": record["capacity"], **used},
        distributions={"capacity": names, **{k: space[k] for k in used}},
        values=[objective(record, name) for name in plan.config.search.objectives] if complete else None,
        user_attrs={"record": record},
        intermediate_values={int(epoch): nll for epoch, nll in record["curve"].items()},
    )


def objective(record: dict[str, Any], name: str) -> float:
    """The value of one objective of a finished trial; all are minimised."""
    values = {"error": 1 - record["accuracy"], "latency_ms": record["latency_ms_p50"]}
    return float(values[name] if name in values else record[name])


def _rungs(plan: Plan, before: list[dict[str, Any]]) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """Epochs at which trials are compared, each with the NLLs that the capacity's earlier trials had there."""
    halving = plan.config.search.halving
    if halving is None:
        return ()
    epochs = plan.config.search.epochs or plan.config.student.recipe.epochs
    return tuple(
        (epoch, tuple(r["curve"][str(epoch)] for r in before if str(epoch) in r["curve"]))
        for epoch in halving.epochs(epochs)
    )


def space_of(knobs: Knobs) -> dict[str, BaseDistribution]:
    """What varies between the trials of a capacity, by Optuna's names; an option of a loss is ``loss.option``."""
    spaces = {k: _distribution(s) for k, s in knobs.ranges().items() if isinstance(s, Range)}
    losses = getattr(knobs, "losses", ())
    if len(losses) > 1:
        spaces["loss"] = CategoricalDistribution([loss.name for loss in losses])
    for loss in losses:
        spaces |= {f"{loss.name}.{k}": _distribution(s) for k, s in loss.options.items() if isinstance(s, Range)}
    return spaces


def _distribution(space: Range) -> BaseDistribution:
    return FloatDistribution(space.low, space.high, log=space.log)


class _Proposals:
    """Values for the searched knobs, from the finished trials of all capacities.

    Qualities are made comparable by dividing by the capacity's median; a stopped trial counts as its worst one.
    """

    def __init__(self, plan: Plan, before: list[dict[str, Any]]) -> None:
        self.plan, self.space = plan, space_of(plan.knobs)
        self._view = optuna.create_study()
        for record, value in self._values(before):
            self._view.add_trial(
                optuna.trial.create_trial(params=record["proposal"], distributions=self.space, value=value)
            )

    def _values(self, before: list[dict[str, Any]]) -> list[tuple[dict[str, Any], float]]:
        """The trials that the TPE is to see, each with its quality."""
        quality, found = self.plan.config.search.objectives[0], []
        for capacity in dict.fromkeys(r["capacity"] for r in before) if self.space else ():
            mine = [r for r in before if r["capacity"] == capacity and r["state"] != "fail"]
            complete = {r["number"]: objective(r, quality) for r in mine if r["state"] == "complete"}
            if complete:
                median, worst = max(float(np.median(list(complete.values()))), 1e-12), max(complete.values())
                found += [(r, complete.get(r["number"], worst) / median) for r in mine]
        best = sorted(found, key=lambda pair: pair[1])[: MEMORY // 4]
        latest = sorted(found, key=lambda pair: pair[0]["number"])[-(MEMORY - len(best)) :]
        chosen = {r["number"]: (r, value) for r, value in best + latest}
        return [chosen[number] for number in sorted(chosen)]

    def record(self, number: int) -> dict[str, Any]:
        """What is known of a trial before it is trained."""
        plan = self.plan
        capacity = plan.capacities[number % len(plan.capacities)].name
        proposal = self._propose(number)
        setting = plan.knobs.setting(proposal).model_dump()
        return {
            "number": number,
            "capacity": capacity,
            "setting": setting,
            "proposal": proposal,
            **plan.costs[capacity],
        }

    def _propose(self, number: int) -> dict[str, Any]:
        if not self.space:
            return {}
        self._view.sampler = optuna.samplers.TPESampler(
            seed=derive_seed(self.plan.config.seed, "trial", number), n_startup_trials=START_UP, multivariate=True
        )
        proposal = dict(self._view.ask(self.space).params)
        turn, known_good = number // len(self.plan.capacities), self.plan.knobs.known_good
        if turn < len(known_good):
            fits = {k: v for k, v in known_good[turn].items() if k in self.space}
            proposal |= {k: v for k, v in fits.items() if _holds(self.space[k], v)}
        return proposal


def _holds(space: BaseDistribution, value: Any) -> bool:
    return bool(space._contains(space.to_internal_repr(value)))


def variance_shares(trials: list[tuple[dict[str, Any], float]], space: dict[str, BaseDistribution]) -> dict[str, float]:
    """Share of the values' variance that each knob explains alone, largest first; the rest belongs to several at once.

    Functional ANOVA over a random forest (Hutter, Hoos and Leyton-Brown 2014).

    Args:
        trials: The values of the knobs, and what came of them.
        space: Where each knob was searched.
    """
    study = optuna.create_study()
    for params, value in trials:
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
    return {k: float(v) for k, v in FanovaImportanceEvaluator(seed=0).evaluate(study).items()}
