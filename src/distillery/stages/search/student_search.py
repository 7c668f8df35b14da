"""Stage `search`: which capacity, and with which settings.

One study of students over all capacities; then one of the chosen capacity without a teacher, with as many trials as
that capacity had: its best settings make the tuned baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from distillery.config.experiment import Capacity, Experiment
from distillery.config.search_space import Knobs, Range, Search
from distillery.errors import InputError
from distillery.ops.pareto import front
from distillery.stages.data.dataset import LEARNED, Dataset
from distillery.stages.distillation.calibration import Calibrated
from distillery.stages.measurement.profile import cost, latency
from distillery.stages.measurement.record import Profile
from distillery.stages.measurement.runtimes import NotExportable, in_onnxruntime, network_graph
from distillery.stages.search.record import SearchResult, Trial, TrialState
from distillery.stages.search.study import (
    OnTrial,
    Plan,
    RunMany,
    cohort_of,
    one_after_another,
    open_study,
    run_study,
)
from distillery.stages.teachers.member_keys import content_key
from distillery.store import Handle, Store, fingerprint
from distillery.training.networks import build_network
from distillery.user_code import is_user_code, user_code_digest

VERSION = 5
PROFILE_VERSION = 5
GRAPH = "network.onnx"


def profile_capacity(capacity: Capacity, data: Handle, runs: int, store: Store) -> Handle:
    """What a capacity costs, measured once: params, macs, size_mb and latency, in the handle's metrics.

    ``network.onnx`` is the graph that was measured: the network as it is served, behind the preprocessing.

    Raises:
        InputError: The network cannot be exported, so no student of this capacity could be served.
    """

    def build(work: Path) -> dict[str, object]:
        dataset = Dataset(data)
        network = Calibrated(build_network(capacity, dataset.spec, 0), 1.0)
        try:
            graph = network_graph(network, dataset.spec)
        except NotExportable as error:
            raise InputError(
                f"student.capacities: expected networks that torch can export to ONNX, got {capacity.name!r}: {error}"
            ) from error
        onnx.save(graph, work / GRAPH)
        rows = dataset.inputs[dataset.splits["val_search"][:64]]
        return {**cost(network, dataset.spec), **latency(in_onnxruntime(graph).answer, rows, runs)}

    key = [PROFILE_VERSION, content_key(capacity), runs, Dataset(data).spec.to_json()]
    return store.stage("profile", capacity.name, key, build)


def feasible(config: Search, profiles: list[Handle]) -> list[str]:
    """Names of the capacities within the budgets.

    Raises:
        InputError: There is none, or the one that `select` names is not.
    """
    costs = _costs(profiles)
    names = []
    for name, facts in costs.items():
        slow = config.max_latency_ms is not None and facts.latency_ms_p50 > config.max_latency_ms
        large = config.max_params is not None and facts.params > config.max_params
        if not slow and not large:
            names.append(name)
    if not names or (config.select in costs and config.select not in names):
        measured = ", ".join(f"{n}: {c.latency_ms_p50:.3g} ms, {c.params} parameters" for n, c in costs.items())
        wanted = repr(config.select) if names else "a capacity"
        raise InputError(
            f"search: expected {wanted} within max_latency_ms={config.max_latency_ms} and "
            f"max_params={config.max_params}, got {measured}"
        )
    return names


def _costs(profiles: Sequence[Handle]) -> dict[str, Profile]:
    """What each capacity costs, by name."""
    return {profile.name: Profile.model_validate(profile.metrics) for profile in profiles}


def run_search(
    config: Experiment,
    data: Handle,
    ensemble: Handle,
    logits: list[Handle],
    profiles: list[Handle],
    store: Store,
    *,
    device: str = "cpu",
    run_many: RunMany = one_after_another,
    on_trial: OnTrial | None = None,
    database: str | None = None,
) -> Handle:
    """``search.json``: all trials, the front, each capacity's best, the chosen capacity and its finalists.

    Args:
        config: Its `search`, `student` and `seed`.
        data: Stage `data`. Test rows are never read.
        ensemble: Stage `ensemble`.
        logits: The active members' logits on the transfer set.
        profiles: `profile_capacity` of every capacity.
        store: Where the study's database and the result lie.
        device: Where to train; `AUTO` for each process that trains to decide.
        run_many: Runs the trials of a round, perhaps at the same time; by default one after another.
        on_trial: Called with the record of each finished trial.
        database: Where the study is kept, if not in the store's journal.

    Raises:
        InputError: No capacity is within the budgets.
    """
    allowed = feasible(config.search, profiles)
    capacities = [c for c in config.student.capacities if c.name in allowed]
    plan = Plan(
        config,
        config.search,
        config.search.trials,
        data,
        ensemble,
        tuple(logits),
        capacities,
        _costs(profiles),
        device,
        cohort_of(config, capacities, Dataset(data).spec.kind),
    )
    return _search(plan, store, run_many, on_trial, database)


def run_baseline_search(
    config: Experiment,
    data: Handle,
    search: Handle,
    profiles: list[Handle],
    store: Store,
    *,
    device: str = "cpu",
    run_many: RunMany = one_after_another,
    on_trial: OnTrial | None = None,
    database: str | None = None,
) -> Handle:
    """``search.json`` of the chosen capacity without a teacher, with the number of trials that it had with one."""
    result = SearchResult.read(search)
    capacities = [c for c in config.student.capacities if c.name == result.chosen]
    cohort = cohort_of(config, capacities, Dataset(data).spec.kind)
    plan = Plan(
        config,
        baseline_knobs(config),
        result.trials_of_chosen,
        data,
        None,
        (),
        capacities,
        _costs(profiles),
        device,
        cohort,
    )
    return _search(plan, store, run_many, on_trial, database)


def baseline_knobs(config: Experiment) -> Knobs:
    """What is searched for the tuned baseline: the config's own, or learning rate and weight decay around the recipe's.

    The recipe itself is tried first.
    """
    if config.search.baseline is not None:
        return config.search.baseline
    recipe = config.student.recipe
    decay = max(recipe.weight_decay, 1e-3)
    return Knobs(
        lr=Range(low=recipe.lr / 4, high=recipe.lr * 4, log=True),
        weight_decay=Range(low=decay / 8, high=decay * 8, log=True),
        initial_points=({"lr": recipe.lr, "weight_decay": decay},),
    )


def study_settings(config: Experiment, role: str) -> list[object]:
    """The parts of a config that a study of `role`, ``student`` or ``baseline``, depends on.

    How many finalists there are, and their seeds, changes nothing about the trials; a baseline knows no teacher.
    """
    if role == "student":
        searched = config.search.model_dump(exclude={"finalists", "seeds", "baseline", "trials", "select"})
        own = [user_code_digest(loss.name) for loss in config.search.losses if is_user_code(loss.name)]
        return [role, searched, config.student, config.seed, *own]
    searched = config.search.model_dump(include={"epochs", "halving", "objectives", "trials_per_round"})
    return [role, searched, baseline_knobs(config), config.student.recipe, config.seed]


def _search(plan: Plan, store: Store, run_many: RunMany, on_trial: OnTrial | None, database: str | None) -> Handle:
    config = plan.config
    role = "student" if plan.ensemble is not None else "baseline"
    upstream: list[object] = [Dataset(plan.data).digest(*LEARNED), [handle.fingerprint for handle in plan.logits]]
    if plan.ensemble is not None:
        upstream.append(plan.ensemble.fingerprint)
    models = [[capacity.name, content_key(capacity)] for capacity in plan.capacities]
    key = [VERSION, *study_settings(config, role), plan.trials, models, upstream]
    name = f"{config.name}-{role}-{fingerprint('search', key)[:12]}"

    def build(work: Path) -> dict[str, object]:
        study = open_study(store, name, config.search.objectives, database)
        return _conclude(work, name, run_study(study, plan, run_many, on_trial), config.search)

    return store.stage("search", f"{config.name}-{role}", [*key, config.search.select], build)


def _conclude(work: Path, name: str, trials: list[Trial], config: Search) -> dict[str, object]:
    """Writes the result of a study and returns what its chosen capacity's best trial has."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if not complete:
        failed = next(trial for trial in trials if trial.state is TrialState.FAILED)
        raise FloatingPointError(f"search: all {len(trials)} trials diverged: {failed.reason}")

    quality = config.objectives[0]
    ranked: dict[str, list[Trial]] = {}
    for trial in sorted(complete, key=lambda trial: trial.objective(quality)):
        ranked.setdefault(trial.capacity, []).append(trial)
    chosen = choose([own[0] for own in ranked.values()], config)

    points = np.array([[trial.objective(name) for name in config.objectives] for trial in complete])
    result = SearchResult(
        study=name,
        objectives=config.objectives,
        trials=trials,
        front=[complete[index].number for index in front(points)],
        ranked={capacity: [trial.number for trial in own] for capacity, own in ranked.items()},
        chosen=chosen.capacity,
    )
    result.write(work)
    return {"trials": len(trials), "nll": chosen.nll, "accuracy": chosen.accuracy}


def choose(best: Sequence[Trial], config: Search) -> Trial:
    """The best trial of the capacity to ship.

    Args:
        best: The best trial of each capacity.
        config: Its `select` and its first objective.

    Raises:
        FloatingPointError: The capacity that `select` names has no complete trial.
    """
    quality = config.objectives[0]
    top = min(best, key=lambda trial: trial.objective(quality))
    if config.select == "best":
        return top
    for trial in best:
        if trial.capacity == config.select:
            return trial
    if config.select != "smallest_within_one_se":
        raise FloatingPointError(f"search: all trials of {config.select!r}, which search.select names, diverged")
    spread = top.nll_se if quality == "nll" else top.accuracy_se
    assert spread is not None
    limit = top.objective(quality) + spread
    near = [trial for trial in best if trial.objective(quality) <= limit]
    return min(near, key=lambda trial: trial.params)


def select(runs: Sequence[Sequence[Handle]], objective: str) -> int:
    """The index of the setting whose students, one per seed, are best on val_search in the mean.

    Args:
        runs: Stage `students`: for each setting, its students.
        objective: ``nll`` or ``error``.
    """
    means = [np.mean([quality_of(network, objective) for network in networks]) for networks in runs]
    return int(np.argmin(means))


def quality_of(network: Handle, objective: str) -> float:
    """What a trained network has on val_search, ``nll`` or ``error``; less is better."""
    return float(network.metrics["nll"] if objective == "nll" else 1 - network.metrics["accuracy"])
