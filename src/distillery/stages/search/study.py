"""An Optuna study of students, or of the same networks without a teacher.

The study has several objectives, but latency, parameters and MACs are facts of the architecture: they are measured
once per capacity. So every capacity gets an equal share of the trials, in turn, and within them a TPE proposes the
other knobs by validation quality alone. In a round every capacity trains `cohort` trials, together where its networks
can be stacked. Proposals depend on nothing but the trials of earlier rounds, and where a trial is stopped on those and
on its own cohort: a round may run in any number of processes, and a killed study continues as if it had not been.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import optuna
from optuna.distributions import CategoricalDistribution

from distillery.config.experiment import Capacity, Experiment
from distillery.config.search_space import Knobs
from distillery.errors import InputError
from distillery.stages.measurement.record import Profile
from distillery.stages.search.journal import journal_of
from distillery.stages.search.proposals import Proposals, Space, space_of
from distillery.stages.search.record import Outcome, Trial, TrialState
from distillery.stages.search.trials import Job, Proposed, train_trials
from distillery.store import Handle, Store
from distillery.training.stack_size import stacks

RECORD = "record"  # the attribute of a trial of Optuna's that holds a `Trial`
STATES = {
    TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
    TrialState.STOPPED: optuna.trial.TrialState.PRUNED,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
}

log = logging.getLogger(__name__)
optuna.logging.set_verbosity(optuna.logging.WARNING)

T = TypeVar("T")
OnTrial = Callable[[Trial], None]
RunMany = Callable[[Callable[[Job], list[Outcome]], list[tuple[Job]]], list[list[Outcome]]]


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
    costs: Mapping[str, Profile]
    device: str
    cohort: int

    @property
    def width(self) -> int:
        """Trials in a round."""
        return self.cohort * len(self.capacities)

    @property
    def quality(self) -> str:
        """What trials are judged by: ``nll`` or ``error``."""
        return self.config.search.objectives[0]


def cohort_of(config: Experiment, capacities: list[Capacity], kind: str) -> int:
    """Trials of a capacity that are proposed at once: several only where they train together."""
    return config.search.trials_per_round if all(stacks(c, kind) for c in capacities) else 1


def run_study(study: optuna.Study, plan: Plan, run_many: RunMany, on_trial: OnTrial | None) -> list[Trial]:
    """Runs what is left of a study and returns all its trials, by number.

    A round is written, and `on_trial` told of it, while the next one trains. A round that was cut off while it was
    written runs again as a whole; those of its trials that were written are not written again.
    """
    trials = trials_of(study)
    unwritten: list[Trial] = []
    with ThreadPoolExecutor(1, "round") as aside:
        while len(trials) < plan.trials:
            proposed = next_round(plan, trials)
            jobs = _jobs(plan, proposed, trials)
            training = aside.submit(run_many, train_trials, [(job,) for job in jobs])
            _write(study, plan, unwritten, on_trial)

            finished = _trials(plan, jobs, training.result())
            unwritten = [trial for trial in finished if trial.number >= len(trials)]
            trials += unwritten
    _write(study, plan, unwritten, on_trial)
    return trials_of(study)


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


def trials_of(study: optuna.Study) -> list[Trial]:
    """All finished trials of a study, by number."""
    kept = study.get_trials(deepcopy=False, states=tuple(STATES.values()))
    trials = [Trial.model_validate(trial.user_attrs[RECORD]) for trial in kept if RECORD in trial.user_attrs]
    return sorted(trials, key=lambda trial: trial.number)


def one_after_another(function: Callable[[Job], T], jobs: list[tuple[Job]]) -> list[T]:
    """Runs the jobs of a round in this process."""
    return [function(*job) for job in jobs]


def next_round(plan: Plan, trials: Sequence[Trial]) -> list[Proposed]:
    """The trials of the first round that is not finished, by number."""
    first = _start_of_round(plan, trials)
    proposals = Proposals(plan.knobs, plan.quality, plan.config.seed, len(plan.capacities), trials[:first])
    proposed = []
    for number in range(first, min(first + plan.width, plan.trials)):
        capacity = plan.capacities[number % len(plan.capacities)]
        point = proposals.propose(number)
        proposed.append(Proposed(number, capacity.name, plan.knobs.setting(point), point))
    return proposed


def _start_of_round(plan: Plan, trials: Sequence[Trial]) -> int:
    return len(trials) - len(trials) % plan.width


def _jobs(plan: Plan, proposed: Sequence[Proposed], trials: Sequence[Trial]) -> list[Job]:
    """A job for each capacity, the largest network first, so that all end together."""
    before = trials[: _start_of_round(plan, trials)]
    jobs = []
    for capacity in sorted(plan.capacities, key=lambda c: -plan.costs[c.name].params):
        own = tuple(trial for trial in proposed if trial.capacity == capacity.name)
        if own:
            rungs = _rungs(plan, [trial for trial in before if trial.capacity == capacity.name])
            jobs.append(Job(plan.config, plan.data, plan.ensemble, plan.logits, capacity, own, plan.device, rungs))
    return jobs


def _rungs(plan: Plan, before: Sequence[Trial]) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """Epochs at which trials are compared, each with the NLLs that the capacity's earlier trials had there."""
    halving = plan.config.search.halving
    if halving is None:
        return ()
    epochs = plan.config.search.epochs or plan.config.student.recipe.epochs
    rungs = []
    for epoch in halving.epochs(epochs):
        rungs.append((epoch, tuple(trial.curve[epoch] for trial in before if epoch in trial.curve)))
    return tuple(rungs)


def _trials(plan: Plan, jobs: Sequence[Job], outcomes: Sequence[Sequence[Outcome]]) -> list[Trial]:
    """The finished trials of a round, by number."""
    trials = []
    for job, results in zip(jobs, outcomes, strict=True):
        for proposed, outcome in zip(job.trials, results, strict=True):
            values = {
                "number": proposed.number,
                "capacity": proposed.capacity,
                "setting": proposed.setting.model_dump(mode="json"),
                "proposal": proposed.proposal,
                **plan.costs[proposed.capacity].model_dump(),
                **outcome.model_dump(),
            }
            trials.append(Trial.model_validate(values))
    return sorted(trials, key=lambda trial: trial.number)


def _write(study: optuna.Study, plan: Plan, trials: Sequence[Trial], on_trial: OnTrial | None) -> None:
    space = space_of(plan.knobs)
    for trial in trials:
        study.add_trial(_as_optunas(plan, space, trial))
        if trial.state is TrialState.FAILED:
            log.warning("trial %d failed: %s", trial.number, trial.reason)
    for trial in trials:
        if on_trial is not None:
            on_trial(trial)


def _as_optunas(plan: Plan, space: Space, trial: Trial) -> optuna.trial.FrozenTrial:
    """A finished trial as Optuna keeps it. Of the losses' options, only those of the loss in use are shown."""
    loss = trial.as_setting().loss
    name = None if loss is None else loss.name
    used = {k: v for k, v in trial.proposal.items() if "." not in k or k.split(".")[0] == name}
    capacities = CategoricalDistribution([capacity.name for capacity in plan.capacities])
    values = None
    if trial.state is TrialState.COMPLETE:
        values = [trial.objective(objective) for objective in plan.config.search.objectives]
    return optuna.trial.create_trial(
        state=STATES[trial.state],
        params={"capacity": trial.capacity, **used},
        distributions={"capacity": capacities, **{knob: space[knob] for knob in used}},
        values=values,
        user_attrs={RECORD: trial.model_dump(mode="json")},
        intermediate_values=dict(trial.curve),
    )
