"""One trial of a study: a student trained with one setting and judged on val_search."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from distillery.config import Capacity, Experiment, Recipe
from distillery.dataset import Dataset
from distillery.metrics import row_correct, row_nll
from distillery.space import Setting
from distillery.store import Handle, fingerprint
from distillery.students import Targets, applied, distil, student_seed
from distillery.teachers import build_network, fit_classifier
from distillery.training.fit import OnEpoch, predict


@dataclass(frozen=True)
class Job:
    """One trial to train, as it travels to a worker process.

    Attributes:
        ensemble: Stage `ensemble`; None for a trial without a teacher.
        logits: The members' logits on the transfer set.
        rungs: Epochs after which the trial is measured, each with the NLL on val_search above which it ends there.
    """

    config: Experiment
    data: Handle
    ensemble: Handle | None
    logits: tuple[Handle, ...]
    capacity: Capacity
    setting: Setting
    device: str
    rungs: tuple[tuple[int, float], ...] = ()


class Stopped(Exception):
    """A trial was too far behind at a rung."""


def train_trial(job: Job) -> dict[str, Any]:
    """Trains the student of one trial and judges it on val_search.

    Result: `state` (complete, stopped or fail), figures, and `curve`: the NLL at each rung that it came to.
    """
    dataset, seed = Dataset(job.data), student_seed(job.config.seed, job.capacity)
    recipe = job.config.student.recipe
    if job.config.search.epochs is not None:
        recipe = recipe.model_copy(update={"epochs": job.config.search.epochs})
    network = build_network(job.capacity, dataset.spec, seed)
    limits, curve, began = dict(job.rungs), {}, time.perf_counter()

    def on_epoch(epoch: int, record: dict[str, float]) -> None:
        if epoch in limits:
            nll = curve[str(epoch)] = _finite(record["val_search/nll"])
            if nll > limits[epoch]:
                raise Stopped

    state = "complete"
    try:
        try:
            _train(job, network, dataset, recipe, seed, on_epoch)
        except Stopped:
            state = "stopped"
        figures = _judge(network, dataset, job.device)
    except FloatingPointError as error:
        return {"state": "fail", "reason": str(error), "curve": curve}
    return {"state": state, **figures, "curve": curve, "seconds": time.perf_counter() - began}


def _train(job: Job, network: nn.Module, dataset: Dataset, recipe: Recipe, seed: int, on_epoch: OnEpoch) -> None:
    what = f"trial of {job.capacity.name!r} with {job.setting.model_dump(exclude_none=True)}"
    rungs = [epoch for epoch, _ in job.rungs]
    if job.ensemble is None:
        own = applied(job.setting, recipe)
        fit_classifier(network, dataset, own, seed, job.device, on_epoch, what, "val_search", rungs)
        return
    targets = _targets(job, job.ensemble)
    distil(
        network,
        dataset,
        targets,
        job.setting,
        job.config.student,
        recipe,
        seed=seed,
        device=job.device,
        validate_at=rungs,
        on_epoch=on_epoch,
        what=what,
    )


def _judge(network: nn.Module, dataset: Dataset, device: str) -> dict[str, float]:
    labels = dataset.labels("val_search")
    logits = predict(network, dataset.inputs[dataset.splits["val_search"]], device=device)
    nll, correct = row_nll(logits, labels), row_correct(logits, labels)
    return {
        "nll": _finite(float(nll.mean())),
        "nll_se": float(nll.std() / np.sqrt(len(nll))),
        "accuracy": float(correct.mean()),
        "accuracy_se": float(correct.std() / np.sqrt(len(correct))),
    }


def _finite(nll: float) -> float:
    if not np.isfinite(nll):
        raise FloatingPointError(f"the NLL on val_search became {nll}; a lower lr may help")
    return nll


_memory: dict[str, Targets] = {}


def _targets(job: Job, ensemble: Handle) -> Targets:
    """What the students of one study learn from, kept in memory between trials."""
    views = job.config.student.views
    key = fingerprint(job.data.path, ensemble.path, [h.path for h in job.logits], views, job.device)
    if key not in _memory:
        _memory.clear()
        _memory[key] = Targets.load(job.data, views, ensemble, list(job.logits), job.device)
    return _memory[key]
