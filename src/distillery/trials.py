"""One trial of the search: a student trained with one setting and judged on val_search."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from distillery.config import Capacity, Experiment
from distillery.dataset import Dataset
from distillery.ensemble import teacher_logits
from distillery.metrics import row_correct, row_nll
from distillery.store import Handle, fingerprint
from distillery.students import Setting, distil, student_seed
from distillery.teachers import build_network
from distillery.training.fit import predict


@dataclass(frozen=True)
class Job:
    """One trial to train, as it travels to a worker process."""

    config: Experiment
    data: Handle
    ensemble: Handle
    train_logits: tuple[Handle, ...]
    capacity: Capacity
    setting: Setting
    device: str


def train_trial(job: Job) -> dict[str, Any]:
    """Trains the student of one trial and judges it on val_search."""
    dataset, targets = _shared(job.data, job.ensemble, job.train_logits)
    seed = student_seed(job.config.seed, job.capacity)
    recipe = job.config.student.recipe
    if job.config.search.epochs is not None:
        recipe = recipe.model_copy(update={"epochs": job.config.search.epochs})
    network = build_network(job.capacity, dataset.spec, seed)
    what = f"trial of {job.capacity.name!r} with {job.setting.model_dump(exclude_none=True)}"
    loss, began = job.config.student.loss, time.perf_counter()
    try:
        distil(network, dataset, targets, job.setting, recipe, loss, seed=seed, device=job.device, what=what)
    except FloatingPointError as error:
        return {"state": "fail", "reason": str(error)}
    labels = dataset.labels("val_search")
    logits = predict(network, dataset.inputs[dataset.splits["val_search"]], device=job.device)
    nll = row_nll(logits, labels)
    return {
        "state": "complete",
        "nll": float(nll.mean()),
        "nll_se": float(nll.std() / np.sqrt(len(nll))),
        "accuracy": float(row_correct(logits, labels).mean()),
        "seconds": time.perf_counter() - began,
    }


_memory: dict[str, tuple[Dataset, np.ndarray]] = {}


def _shared(data: Handle, ensemble: Handle, train_logits: tuple[Handle, ...]) -> tuple[Dataset, np.ndarray]:
    """Data and targets, kept in memory between the trials of one search."""
    key = fingerprint(data.path, ensemble.path, [h.path for h in train_logits])
    if key not in _memory:
        _memory.clear()
        _memory[key] = Dataset(data), teacher_logits(ensemble, list(train_logits))
    return _memory[key]
