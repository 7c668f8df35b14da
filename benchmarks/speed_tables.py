"""Speed on the task of configs/tabular.yaml: trials, teachers, and the study's own cost as it grows."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import references
import torch
from ours import ours_teachers, ours_trials
from pairs import Results, Side, in_turn, paired
from torch import nn

from distillery.config import config_file
from distillery.config.experiment import Experiment, Recipe
from distillery.config.search_space import Setting
from distillery.ops import metrics
from distillery.stages.data import preparation
from distillery.stages.data.dataset import Dataset
from distillery.stages.distillation import distill
from distillery.stages.ensemble import weight_selection as ensemble
from distillery.stages.logits import logit_cache
from distillery.stages.search import student_search, study
from distillery.stages.search.record import Outcome, Profile, TrialState
from distillery.stages.search.trials import Job
from distillery.stages.teachers.groups import in_one_go
from distillery.stages.teachers.member_files import load_member
from distillery.stages.teachers.teacher_training import train_teachers
from distillery.store import Handle, Store
from distillery.training.networks import build_network
from distillery.training.single import predict

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".distillery" / "bench"
CAPACITY = "mlp-3490"
TUTORIAL_EPOCHS = 35  # of a teacher
TRIALS, COHORT = 64, 32  # of a measured study
MEASURED_EPOCHS = 2  # of a reference loop
GROWN = (50, 1000)


@dataclass(frozen=True)
class Task:
    """Everything that trials start from. The teachers are the same ones for both sides."""

    experiment: Experiment
    data: Handle
    members: list[Handle]
    ensemble: Handle
    taught: list[Handle]
    profiles: list[Handle]

    @property
    def dataset(self) -> Dataset:
        """The rows, opened."""
        return Dataset(self.data)


@cache
def prepared() -> Task:
    """The chain up to the search, kept in the benchmark's store; not measured."""
    rungs = f"student.capacities=[{{name: {CAPACITY}, family: mlp, hidden: [64, 32]}}]"
    study_alone = [rungs, f"search.trials={TRIALS}", f"search.trials_per_round={COHORT}", "search.halving=null"]
    experiment = config_file.load(ROOT / "configs/tabular.yaml", study_alone)
    store = Store(HOME / ".distillery")
    data = preparation.prepare(experiment.data, preparation.read_source(experiment.data), store)
    members: list[Handle] = []
    for names, member in in_one_go(experiment.teachers, data):
        recipe = experiment.teachers.recipe_of(member)
        members += train_teachers(names, member, recipe, experiment.seed, data, store)
    on_val = [logit_cache.cache_logits(m, "val_ensemble", data, experiment.logits, store) for m in members]
    pooled = ensemble.optimize_weights(members, on_val, data, experiment.ensemble, store)
    used = [m for m in members if m.name in ensemble.active(pooled)]
    views = experiment.student.views
    taught = [logit_cache.cache_logits(m, "transfer", data, experiment.logits, store, views=views) for m in used]
    runs = experiment.evaluation.latency_runs
    profiles = [student_search.profile_capacity(c, data, runs, store) for c in experiment.student.capacities]
    return Task(experiment, data, members, pooled, taught, profiles)


def trials(results: Results, pairs: int) -> None:
    """Line 1: what a trial of as many epochs as the config's costs, its share of Optuna and the store included."""
    task = prepared()
    epochs = task.experiment.search.epochs or task.experiment.student.recipe.epochs
    rows, labels = _train(task.dataset)
    teachers: list[nn.Module] = [load_member(m, task.dataset).network for m in task.members]  # type: ignore[attr-defined]
    cached = references.TEMPERATURE * references.softened(teachers, rows).log()
    plain = references.cached_student(rows, labels, cached, epochs)
    quality = {"reference": _quality(task.dataset, plain), "candidate": _quality(task.dataset, _ours(task, epochs))}

    share = MEASURED_EPOCHS / epochs
    loops = {
        "the tutorial's loop": partial(references.tutorial_student, rows, labels, teachers, MEASURED_EPOCHS),
        "the cached-logit DataLoader loop": partial(references.cached_student, rows, labels, cached, MEASURED_EPOCHS),
    }
    theirs = [Side(name, loop, share) for name, loop in loops.items()]
    found = paired(theirs, Side(f"a study of {TRIALS} trials", partial(_study, task), TRIALS), pairs)
    for measured, goal in zip(found, (120, 45), strict=True):
        title = f"trials of {epochs} epochs per CPU second, against {measured.names[0]}"
        results.row("1", title, measured, goal, "times as many", quality=quality)


def _train(opened: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.from_numpy(opened.inputs[opened.splits["train"]])
    return rows, torch.from_numpy(opened.labels("train"))


def _ours(task: Task, epochs: int) -> nn.Module:
    """The student of the first known good setting, with as many epochs as a trial."""
    experiment, capacity = task.experiment, task.experiment.student.capacities[0]
    seed = distill.student_seed(experiment.seed, capacity)
    network = build_network(capacity, task.dataset.spec, seed)
    targets = distill.Targets.load(task.data, experiment.student.views, task.ensemble, task.taught)
    setting = Setting(**experiment.search.initial_points[0])
    recipe = experiment.student.recipe.model_copy(update={"epochs": epochs})
    distill.distil([network], task.dataset, targets, [setting], [seed], experiment.student, recipe)
    return network


def _quality(opened: Dataset, *networks: nn.Module) -> dict[str, float]:
    """On the test rows: mean accuracy of the networks, and accuracy and NLL of their simple average."""
    labels, rows = opened.labels("test"), opened.inputs[opened.splits["test"]]
    found = [torch.from_numpy(predict(network, rows)) for network in networks]
    together = torch.stack(found).log_softmax(-1).logsumexp(0).numpy()
    whole = metrics.quality(together, labels)
    mean = float(np.mean([(z.argmax(-1).numpy() == labels).mean() for z in found]))
    return {"mean_accuracy": mean, "accuracy": whole["accuracy"], "nll": whole["nll"]}


def teachers(results: Results, pairs: int) -> None:
    """Line 2: twelve teachers, for as many epochs as the tutorial's."""
    task = prepared()
    rows, labels = _train(task.dataset)
    member = task.experiment.teachers.members[0]
    configured = task.experiment.teachers.recipe_of(member)
    seeds = list(range(member.copies))
    theirs = _quality(task.dataset, *references.tutorial_teachers(rows, labels, TUTORIAL_EPOCHS))
    reference = Side(
        "the tutorial's loop",
        partial(references.tutorial_teachers, rows, labels, MEASURED_EPOCHS),
        MEASURED_EPOCHS / TUTORIAL_EPOCHS,
    )
    alike = {"batch_size": references.BATCH, "lr": references.LR, "weight_decay": 0.01, "augment": {}}
    for name, goal, change in (
        ("with the config's recipe", 10, {}),
        ("with the tutorial's batch size and learning rate", None, alike),
    ):
        recipe = Recipe(**{**configured.model_dump(), **change, "epochs": TUTORIAL_EPOCHS})
        short = recipe.model_copy(update={"epochs": 4 * MEASURED_EPOCHS})
        mine = _quality(task.dataset, *ours_teachers(member, recipe, task.dataset, seeds))
        work = partial(ours_teachers, member, short, task.dataset, seeds)
        candidate = Side("twelve teachers " + name, work, short.epochs / TUTORIAL_EPOCHS)
        title = f"twelve teachers, {TUTORIAL_EPOCHS} epochs, {name}, against the tutorial's loop"
        quality = {"reference": theirs, "candidate": mine}
        results.row("2", title, paired([reference], candidate, pairs)[0], goal, "times as fast", quality=quality)


def growth(results: Results, pairs: int) -> None:
    """Line 7: what a trial costs in a study when it is short and when it is long.

    The long study's trials are replaced by figures drawn at random: of what they cost, only the bookkeeping grows. What
    training costs is measured on a real study in the same run.
    """
    few, many = GROWN
    with tempfile.TemporaryDirectory() as folder:
        grown = Path(folder) / "grown"
        _stubbed_study(grown, many - few)
        fresh = Side(f"trials 1-{few} of a new study", partial(_on_a_copy, None, few), few)
        late = Side(f"trials {many - few + 1}-{many} of a study", partial(_on_a_copy, grown, many), few)
        trained = Side("trials that train", partial(_study, prepared()), TRIALS)
        costs = in_turn([fresh, late, trained], pairs, warm=False)
    seconds = [[cost.cpu for cost in side] for side in costs]
    values = [t / (t + after - before) for before, after, t in zip(*seconds, strict=True)]
    told = {
        f"{what}_ms": 1e3 * float(np.median(s)) for what, s in zip(("fresh", "late", "trial"), seconds, strict=True)
    }
    title = f"trials per CPU second at trial {many:,} of a study, against trial {few}"
    results.figure("7", title, values, 0.9, "times as many", most=False, **told)


def _study(task: Task) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / ".distillery"
        ours_trials(task.experiment, task.data, task.ensemble, task.taught, task.profiles, place)


def _on_a_copy(grown: Path | None, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "study"
        if grown is not None:
            shutil.copytree(grown, place)
        _stubbed_study(place, count)


def _stubbed_study(folder: Path, count: int) -> None:
    """A study, new or continued, whose trials do not train."""
    generator = np.random.default_rng(0)

    def stub(function: Callable[..., Any], jobs: Sequence[tuple[Job]]) -> list[list[Outcome]]:
        return [[drawn() for _ in job.trials] for (job,) in jobs]

    def drawn() -> Outcome:
        nll = generator.uniform(0.3, 0.5)
        return Outcome(state=TrialState.COMPLETE, curve={}, seconds=0.0, nll=nll, accuracy=1 - nll / 2)

    task = prepared()
    plan = study.Plan(
        task.experiment,
        task.experiment.search,
        count,
        task.data,
        task.ensemble,
        tuple(task.taught),
        list(task.experiment.student.capacities),
        {p.name: Profile(**p.metrics) for p in task.profiles},
        "cpu",
        task.experiment.search.trials_per_round,
    )
    study.run_study(study.open_study(Store(folder), "stub", task.experiment.search.objectives), plan, stub, None)
