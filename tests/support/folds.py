"""A small table whose labels are noise, and the chain on it with teachers and students by folds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distillery.config.experiment import Experiment
from distillery.flows.environment import Places
from distillery.flows.pipeline import EnsembleResults, build_ensemble
from distillery.flows.tasks.context import Context
from distillery.sources import Rows
from distillery.stages.data.preparation import read_source

FOLDS = 3
NEIGHBOUR = {
    "name": "nn",
    "family": "sklearn",
    "estimator": "sklearn.neighbors.KNeighborsClassifier",
    "params": {"n_neighbors": 1},
}
SPLIT = {"folds": FOLDS, "search_folds_up_to": 1000, "test": 0.25}


def by_folds(tree: dict[str, Any], **changes: Any) -> Experiment:
    """The tiny experiment on 240 rows with folds, and a teacher that remembers every row beside its networks."""
    tree["data"] |= {"rows": 240, "split": SPLIT}
    tree["teachers"]["members"] = [NEIGHBOUR, {"name": "mlp", "family": "mlp", "hidden": [12]}]
    return Experiment(**(tree | changes))


def noise(config: Experiment) -> Rows:
    """The experiment's rows with their labels shuffled."""
    rows = read_source(config.data)
    shuffled = np.random.default_rng(1).permutation(rows.labels)
    return replace(rows, labels=shuffled, digest="shuffled labels")


def built(config: Experiment, rows: Rows, home: Path) -> tuple[Context, EnsembleResults]:
    """The chain up to the ensemble, in a folder."""
    ctx = Context.untracked(config, Places(home, workers=1, device="cpu"))
    return ctx, build_ensemble(ctx, rows)
