"""Several students of images: one after another, in processes of one thread each, or stacked by torch.func.vmap."""

from __future__ import annotations

import copy
import os
import tempfile
from functools import partial
from pathlib import Path

import torch
from pairs import THREADS, Results, Side, paired
from speed_images import SETTING, Task, prepared
from torch import nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, stack_module_state, vmap

from distillery.flows.workers.local import Workers
from distillery.losses import LOSSES
from distillery.stages.students.student_training import TrainingRequest, train_students
from distillery.store import Store

EPOCHS = 8  # of each student
STEPS = 40  # of the bare steps


def side_by_side(results: Results, rounds: int) -> None:
    """Wall seconds of as many students as there are cores; CPU seconds of bare steps, stacked and not."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, _all_threads(), Workers(cores) as workers:
        task = prepared(Path(folder))
        one_by_one = Side("one after another, all threads", partial(_train, task, cores, None), cores)
        at_once = Side("processes of one thread each", partial(_train, task, cores, workers), cores)
        [measured] = paired([one_by_one], at_once, rounds)
    title = f"{cores} students of images in {cores} processes, against one after another with {cores} threads"
    results.row("students", title, measured, 1.0, "times as fast", by="wall")
    with tempfile.TemporaryDirectory() as folder:
        task = prepared(Path(folder))
        [measured] = paired([_steps(task, 4, stacked=False)], _steps(task, 4, stacked=True), rounds)
    results.row(
        "students", "steps of 4 such students by vmap, against one after another", measured, None, "times as fast"
    )


class _all_threads:
    """Torch may use every core, in here and in the processes that are started."""

    def __enter__(self) -> None:
        self._before = {name: os.environ.pop(name, None) for name in THREADS}
        torch.set_num_threads(len(os.sched_getaffinity(0)))

    def __exit__(self, *_: object) -> None:
        os.environ |= {name: value for name, value in self._before.items() if value is not None}
        torch.set_num_threads(1)


def _train(task: Task, count: int, workers: Workers | None) -> None:
    config = task.experiment.student
    short = config.model_copy(update={"recipe": config.recipe.model_copy(update={"epochs": EPOCHS})})
    with tempfile.TemporaryDirectory() as folder:
        upstream = (short, task.data, task.ensemble, task.taught, Store(folder))
        jobs = [(task.capacity, [TrainingRequest(SETTING, seed)], *upstream) for seed in range(count)]
        if workers is not None:
            workers.map(train_students, jobs)
            return
        for job in jobs:
            train_students(*job)


def _steps(task: Task, count: int, *, stacked: bool) -> Side:
    """Gradients of the distillation loss on a resident batch, one of each student; the update is left out."""
    lesson, opened = task.lesson, task.dataset
    rows = opened.splits["train"][: lesson.batch]
    batch, taught = torch.from_numpy(opened.inputs[rows]).float(), task.targets.logits[: lesson.batch]
    labels = torch.from_numpy(opened.labels_of(rows))
    networks = [replace_all_batch_norm_modules_(task.student(seed)).train() for seed in range(count)]
    soft = LOSSES["kd"]

    def loss(network: nn.Module, values: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = functional_call(network, (values, buffers), (batch,))
        return soft(logits, taught, labels, SETTING.temperature)

    def alone() -> None:
        for _ in range(STEPS):
            for network in networks:
                network.zero_grad()
                loss(network, dict(network.named_parameters()), dict(network.named_buffers())).backward()

    shape = copy.deepcopy(networks[0]).to("meta")
    values, buffers = stack_module_state(networks)  # type: ignore[arg-type]
    together = vmap(grad(partial(loss, shape)), randomness="different")

    def at_once() -> None:
        for _ in range(STEPS):
            together(values, buffers)

    return Side("stacked by vmap" if stacked else "one after another", at_once if stacked else alone, STEPS * count)
