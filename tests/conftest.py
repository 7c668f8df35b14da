"""A store, a tiny experiment, and its chain of finished stages, which tests look at and never change."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import settings

from distillery import config_file, dataset, ensemble, evaluate, logits, search, students, teachers
from distillery.store import Store

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
def chain(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Stages `data` to `ensemble` of the tiny experiment."""
    found = SimpleNamespace(config=config_file.parse(TINY), store=Store(tmp_path_factory.mktemp("chain")))
    found.rows = dataset.read_source(found.config.data)
    found.data = dataset.prepare(found.config.data, found.rows, found.store)
    found.dataset = dataset.Dataset(found.data)
    found.members = [
        teachers.train_teacher(
            name, member, found.config.teachers.recipe_of(member), found.config.seed, found.data, found.store
        )
        for name, member, _ in found.config.teachers.each()
    ]
    found.logits = {
        split: [logits.cache_logits(m, split, found.data, found.config.logits, found.store) for m in found.members]
        for split in ("train", "val_ensemble", "val_search", "test")
    }
    found.ensemble = ensemble.optimize_weights(
        found.members, found.logits["val_ensemble"], found.data, found.config.ensemble, found.store
    )
    found.profiles = [search.profile_capacity(c, found.data, 10, found.store) for c in found.config.student.capacities]
    return found


@pytest.fixture(scope="session")
def finished(chain: SimpleNamespace) -> SimpleNamespace:
    """The tiny chain up to `evaluation`."""
    cfg, store, data, pooled, on_train = chain.config, chain.store, chain.data, chain.ensemble, chain.logits["train"]
    found = SimpleNamespace(**vars(chain))
    found.search = search.run_search(cfg, data, pooled, on_train, chain.profiles, store)
    result = found.search.json("search.json")
    found.chosen, found.rungs, found.settings = result["chosen"], [], {}
    for capacity in cfg.student.capacities:
        setting = students.Setting(**result["trials"][result["best"][capacity.name]]["setting"])
        student = students.train_student(capacity, setting, cfg.student, cfg.seed, data, pooled, on_train, store)
        baseline = students.train_baseline(capacity, setting, cfg.student, cfg.seed, data, store)
        found.rungs.append(evaluate.Rung(capacity.name, student, baseline))
        found.settings[capacity.name] = setting
    on_val, on_test = chain.logits["val_search"], chain.logits["test"]
    found.evaluation = evaluate.evaluate(
        chain.members, on_val, on_test, pooled, found.rungs, found.chosen, data, cfg.evaluation, store
    )
    return found
