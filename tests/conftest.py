"""A store, a tiny experiment, and its chain of finished stages, which tests look at and never change."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from tiny_chain import Chain, FinishedChain

from distillery.config import config_file
from distillery.config.search_space import Setting
from distillery.flows.environment import Places
from distillery.flows.pipeline import build_ensemble, cache_logits, distil_students, evaluation_inputs
from distillery.flows.tasks.context import Context
from distillery.flows.tasks.stages import evaluate_models
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preparation import read_source
from distillery.stages.ensemble import weight_selection
from distillery.stages.logits import logit_cache
from distillery.stages.search import student_search
from distillery.stages.students.student_files import StudentRecord
from distillery.store import Handle, Store

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
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Stages `data` to `ensemble` of the tiny experiment, and the members' logits on every split."""
    config = config_file.parse(TINY)
    ctx = Context.untracked(config, Places(tmp_path_factory.mktemp("chain"), workers=1, device="cpu"))
    gc.freeze()  # what is imported by now need not be searched before every measured latency
    rows = read_source(config.data)
    teachers = build_ensemble(ctx, rows)
    yield Chain(
        ctx=ctx,
        config=config,
        store=ctx.store,
        rows=rows,
        results=teachers,
        data=teachers.data,
        dataset=Dataset(teachers.data),
        members=teachers.members,
        logits={
            split: cache_logits(ctx, teachers.members, split, teachers.data)
            for split in ("transfer", "val_ensemble", "val_search", "test")
        },
        ensemble=teachers.ensemble,
        taught=teachers.transfer_logits,
        profiles=teachers.profiles,
    )
    gc.unfreeze()


@pytest.fixture(scope="session")
def search_with(chain: Chain) -> Callable[..., Handle]:
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
def finished(chain: Chain) -> FinishedChain:
    """The tiny chain up to `evaluation`."""
    students = distil_students(chain.ctx, chain.results)
    inputs = evaluation_inputs(chain.ctx, chain.results, students)
    return FinishedChain(
        **vars(chain),
        search=students.search,
        alone=students.baseline_search,
        chosen=students.chosen,
        finals=students.finals,
        settings={final.capacity: _setting(final.students[0]) for final in students.finals},
        inputs=inputs,
        evaluation=evaluate_models(chain.ctx, inputs, chain.rows),
    )


def _setting(student: Handle) -> Setting:
    return Setting.model_validate(StudentRecord.read(student).setting)
