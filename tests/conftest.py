"""A store, a tiny experiment, and its chain of finished stages, which tests look at and never change."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import settings

from distillery.config import config_file
from distillery.config.experiment import Capacity
from distillery.config.search_space import Setting
from distillery.stages.data import dataset
from distillery.stages.ensemble import weight_selection
from distillery.stages.evaluation import evaluation
from distillery.stages.evaluation.evaluation import Inputs
from distillery.stages.logits import logit_cache
from distillery.stages.search import student_search
from distillery.stages.students import student_training
from distillery.stages.students.final_models import Finals
from distillery.stages.students.student_training import Wanted
from distillery.stages.teachers import teacher_training
from distillery.store import Handle, Store
from distillery.training import networks

torch.set_num_threads(1)
settings.register_profile("distillery", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("distillery")


def pytest_configure(config: pytest.Config) -> None:
    """Quiets what the library quiets for its users as well."""
    config.addinivalue_line("filterwarnings", "ignore::optuna.exceptions.ExperimentalWarning")


TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "source": "make_classification",
        "rows": 900,
        "random_state": 3,
        "features": 8,
        "informative": 5,
        "redundant": 1,
        "clusters_per_class": 2,
        "classes": 3,
        "split": {"val_ensemble": 150, "val_search": 150, "test": 300},
    },
    "teachers": {
        "members": [{"name": "mlp", "family": "mlp", "hidden": [24, 12], "copies": 3}],
        "recipe": {"epochs": 8, "batch_size": 32, "lr": 0.005},
    },
    "student": {
        "capacities": [
            {"name": "small", "family": "mlp", "hidden": [4]},
            {"name": "large", "family": "mlp", "hidden": [8]},
        ],
        "recipe": {"epochs": 5, "batch_size": 32, "lr": 0.01},
    },
    "search": {"trials": 4, "epochs": 2},
    "evaluation": {"resamples": 200, "latency_runs": 10},
}


@pytest.fixture
def tree() -> dict[str, Any]:
    """The tiny experiment as a tree of plain values that a test may change."""
    return deepcopy(TINY)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Stages `data` to `ensemble` of the tiny experiment."""
    found = SimpleNamespace(config=config_file.parse(TINY), store=Store(tmp_path_factory.mktemp("chain")))
    found.rows = dataset.read_source(found.config.data)
    found.data = dataset.prepare(found.config.data, found.rows, found.store)
    found.dataset = dataset.Dataset(found.data)
    (member,), names = found.config.teachers.members, [name for name, _, _ in found.config.teachers.each()]
    recipe = found.config.teachers.recipe_of(member)
    found.members = teacher_training.train_teachers(names, member, recipe, found.config.seed, found.data, found.store)
    views = found.config.student.views
    found.logits = {
        split: [
            logit_cache.cache_logits(
                m,
                split,
                found.data,
                found.config.logits,
                found.store,
                views=views if split == "transfer" else None,
            )
            for m in found.members
        ]
        for split in ("transfer", "val_ensemble", "val_search", "test")
    }
    found.ensemble = weight_selection.optimize_weights(
        found.members, found.logits["val_ensemble"], found.data, found.config.ensemble, found.store
    )
    used = weight_selection.active(found.ensemble)
    found.taught = [h for m, h in zip(found.members, found.logits["transfer"], strict=True) if m.name in used]
    gc.freeze()  # what is imported by now need not be searched before every measured latency
    found.profiles = [
        student_search.profile_capacity(c, found.data, 10, found.store) for c in found.config.student.capacities
    ]
    yield found
    gc.unfreeze()


@pytest.fixture(scope="session")
def search_with(chain: SimpleNamespace) -> Callable[..., Handle]:
    """`run_search` on the tiny chain, with changes of the sections `search` and `student` of the config."""

    def run(
        store: Store, changes: dict[str, Any] | None = None, student: dict[str, Any] | None = None, **more: Any
    ) -> Handle:
        tree = deepcopy(TINY)
        tree["search"] |= changes or {}
        tree["student"] |= student or {}
        config = config_file.parse(tree)
        used = [m for m in chain.members if m.name in weight_selection.active(chain.ensemble)]
        taught = [
            logit_cache.cache_logits(m, "transfer", chain.data, config.logits, chain.store, views=config.student.views)
            for m in used
        ]
        data = more.pop("data", chain.data)
        return student_search.run_search(config, data, chain.ensemble, taught, chain.profiles, store, **more)

    return run


@pytest.fixture(scope="session")
def finished(chain: SimpleNamespace) -> SimpleNamespace:
    """The tiny chain up to `evaluation`, its networks trained as the pipeline does."""
    cfg, store, data = chain.config, chain.store, chain.data
    found = SimpleNamespace(**vars(chain))
    found.search = student_search.run_search(cfg, data, chain.ensemble, chain.taught, chain.profiles, store)
    found.alone = student_search.run_baseline_search(cfg, data, found.search, chain.profiles, store)
    found.chosen = found.search.json("search.json")["chosen"]
    names = [c.name for c in cfg.student.capacities]
    found.settings = {name: student_search.best_settings(found.search, name)[0] for name in names}
    found.finals = [_finals(found, capacity) for capacity in cfg.student.capacities]
    on_val, on_test = chain.logits["val_search"], chain.logits["test"]
    found.inputs = Inputs(
        chain.members, on_val, on_test, chain.ensemble, found.finals, found.chosen, data, chain.profiles
    )
    found.evaluation = evaluation.evaluate(found.inputs, chain.rows, cfg.evaluation, store)
    return found


def _finals(found: SimpleNamespace, capacity: Capacity) -> Finals:
    """The student and its baselines; of the chosen capacity also the tuned one, and two seeds of each."""
    cfg, quality = found.config, found.config.search.objectives[0]
    ours = capacity.name == found.chosen
    seeds = [cfg.seed, *(networks.derive_seed(cfg.seed, "repeat", n) for n in range(1, cfg.search.seeds))]

    def taught(settings: list[Setting], seeds: list[int]) -> list[tuple[Handle, ...]]:
        upstream = (cfg.student, found.data, found.ensemble, found.taught, found.store)
        return _by_setting(student_training.train_students(capacity, _wanted(settings, seeds), *upstream), len(seeds))

    def untaught(settings: list[Setting], seeds: list[int]) -> list[tuple[Handle, ...]]:
        upstream = (cfg.student, found.data, found.store)
        return _by_setting(student_training.train_baselines(capacity, _wanted(settings, seeds), *upstream), len(seeds))

    if not ours:
        setting = [found.settings[capacity.name]]
        return Finals(capacity.name, taught(setting, seeds[:1])[0], untaught(setting, seeds[:1])[0])
    settings = student_search.best_settings(found.search, capacity.name, cfg.search.finalists)
    rivals = student_search.best_settings(found.alone, capacity.name, cfg.search.finalists)
    runs, tuned = taught(settings, seeds), untaught(rivals, seeds)
    best = student_search.select(runs, quality)
    found.settings[capacity.name] = settings[best]
    (plain,) = untaught([settings[best]], seeds)
    return Finals(capacity.name, runs[best], plain, tuned[student_search.select(tuned, quality)])


def _wanted(settings: list[Setting], seeds: list[int]) -> list[Wanted]:
    return [Wanted(setting, seed) for setting in settings for seed in seeds]


def _by_setting(handles: list[Handle], seeds: int) -> list[tuple[Handle, ...]]:
    return [tuple(handles[start : start + seeds]) for start in range(0, len(handles), seeds)]
