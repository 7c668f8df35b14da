"""The tasks of the chain, in its order: each opens a tracked run, calls one library function, returns its handle."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from rich.progress import Progress

from distillery.config.experiment import Capacity, Experiment
from distillery.devices import AUTO
from distillery.flows.environment import Places
from distillery.flows.tracking.runs import STORE_ERRORS, Tracker
from distillery.flows.workers.local import Workers
from distillery.ops import metrics
from distillery.sources import Rows
from distillery.stages.checks import prepare_and_check
from distillery.stages.data import dataset
from distillery.stages.ensemble import weight_selection
from distillery.stages.ensemble.record import EnsembleChoice
from distillery.stages.evaluation import evaluation
from distillery.stages.logits import logit_cache
from distillery.stages.report import figures
from distillery.stages.search import student_search
from distillery.store import Handle, Store

COSTS = ("params", "macs", "size_mb", "latency_ms_p50", "latency_ms_p95", "throughput_per_s")

log = logging.getLogger(__name__)


class Context:
    """What every task needs besides its inputs, for the length of one pipeline run."""

    def __init__(self, config: Experiment, places: Places, tracker: Tracker, workers: Workers, bars: Progress) -> None:
        self.config, self.places, self.tracker, self.workers, self.bars = config, places, tracker, workers, bars
        self.handles: list[Handle] = []
        self.only_look = False

    @property
    def store(self) -> Store:
        """Where stages are kept; while `only_look` holds, what is not finished is an error."""
        return Store(self.places.store, only_look=self.only_look, remote=self.places.remote)

    def done(self, handle: Handle) -> Any:
        """Notes the handle for the report; Prefect shows a stage that was found finished as `Cached`."""
        self.note([handle])
        if handle.cached:
            return Completed(name="Cached", message=f"found in the store: {handle.path}", data=handle)
        return handle

    def done_all(self, handles: list[Handle]) -> Any:
        """The same for stages that were made in one go."""
        self.note(handles)
        if all(handle.cached for handle in handles):
            found = ", ".join(handle.path for handle in handles)
            return Completed(name="Cached", message=f"found in the store: {found}", data=handles)
        return handles

    def note(self, handles: list[Handle]) -> None:
        """Notes stages for the report, and that this run needs them; the log says what is finished, after how long."""
        self.handles += handles
        if self.tracker is not None and self.tracker.record is not None:
            self.tracker.record.add(handles)
        names = ", ".join(dict.fromkeys(handle.name for handle in handles))
        made = [handle.seconds for handle in handles if not handle.cached]
        how = f"finished in {sum(made):.1f} s" if made else "found finished"
        log.info("%s '%s': %s", handles[0].stage, names, how)

    def bar(self, text: str, total: int) -> Callable[[int], None]:
        """A progress bar, as a function that moves it to a position."""
        number = self.bars.add_task(text, total=total)
        return lambda position: self.bars.update(number, completed=position)


def transient(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether trying again may help: files and servers come back, wrong input and a full disk do not."""
    failure = state.result(raise_on_failure=False)
    if isinstance(failure, OSError):
        return failure.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.ENOENT)
    return isinstance(failure, STORE_ERRORS)


stage: Any = partial(task, cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[2, 15], retry_condition_fn=transient)


@stage(name="data")
def prepare_data(ctx: Context, rows: Rows) -> Handle:
    """Splits, preprocessing and encoded rows; every model of the config is tried on them before anything trains."""
    handle = prepare_and_check(ctx.config, rows, ctx.store)
    for note in dataset.Dataset(handle).notes:
        log.warning("data: %s", note)
    return ctx.done(handle)


@stage(name="profile", task_run_name="profile-{capacity.name}")
def profile_capacity(ctx: Context, capacity: Capacity, data: Handle) -> Handle:
    """What one capacity costs."""
    return ctx.done(student_search.profile_capacity(capacity, data, ctx.config.evaluation.latency_runs, ctx.store))


@stage(name="logits", task_run_name="logits-{member.name}-{split}")
def cache_logits(ctx: Context, member: Handle, split: str, data: Handle) -> Handle:
    """Raw logits of one member on one split; on the transfer set, of every view that the students will see.

    Found ones are compared with what the member answers now, on a sample.
    """
    seen: dict[str, Any] = {}
    if split == "transfer":
        seen = {"views": ctx.config.student.views, "temperatures": ctx.config.search.temperatures}
    inputs = (member, split, data, ctx.config.logits)
    handle = ctx.workers.stage(logit_cache.cache_logits, *inputs, store=ctx.store, device=AUTO, **seen)
    if handle.cached and split == "transfer":
        logit_cache.check_drift(handle, member, data, device=AUTO)
    return ctx.done(handle)


@stage(name="ensemble-weights")
def optimize_weights(ctx: Context, members: list[Handle], val_logits: list[Handle], data: Handle) -> Handle:
    """The table of weightings and the one in use."""
    handle = weight_selection.optimize_weights(members, val_logits, data, ctx.config.ensemble, ctx.store)
    choice = EnsembleChoice.read(handle)
    for note in choice.notes:
        log.warning("ensemble: %s", note)
    with ctx.tracker.child("ensemble", f"ensemble {weight_selection.label(handle)}", _key("ensemble", handle)) as run:
        if run.fresh:
            run.params({"role": "ensemble", "weighting": choice.used.weighting, "pool": choice.used.pool})
            run.metrics({f"val_ensemble/{k}": v for k, v in handle.metrics.items()})
            run.metrics({f"weight/{name}": weight for name, weight in choice.weights.items()})
            run.tags({"reason": choice.reason})
            run.json(choice.model_dump(mode="json"), choice.FILE)
            title = f"Ensemble weights: {choice.reason}"
            run.figure(figures.weights_figure(choice.weights, title), "weights.png")
    return ctx.done(handle)


@stage(name="evaluation")
def evaluate_models(ctx: Context, inputs: evaluation.Inputs, rows: Rows) -> Handle:
    """Every model on the test split, with pictures on the parent run."""
    handle = evaluation.evaluate(inputs, rows, ctx.config.evaluation, ctx.store)
    content, parent = handle.json("evaluation.json"), ctx.tracker.parent
    assert parent is not None
    labels = dataset.Dataset(inputs.data).labels("test")
    shown = [content["ensemble"], *content["baselines"].values(), content["student"]]
    with np.load(handle.file("test_logits.npz")) as arrays:
        held = {name: arrays[name] for name in shown}
    parent.figure(figures.front_figure(content["rows"]), "front.png")
    parent.figure(figures.reliability_figure(held, labels), "reliability.png")
    counts = metrics.confusion(held[content["student"]], labels)
    title = f"{content['student']} on test"
    parent.figure(figures.confusion_figure(counts, content["classes"], title), "confusion.png")
    parent.figure(figures.curves_figure(_histories(inputs)), "training_curves.png")
    judged = _judged(inputs)
    for row in content["rows"]:
        name = f"{row['role']} {row['name']}"
        run = f"{row['role']} {judged[name].fingerprint}" if name in judged else name
        ctx.tracker.complete(row["role"], name, handle.fingerprint, _figures(row), run)
    return ctx.done(handle)


def _judged(inputs: evaluation.Inputs) -> dict[str, Handle]:
    """Of all seeds, the networks that have a row in the evaluation, by its role and name."""
    found: dict[str, Handle] = {}
    for finals in inputs.finals:
        roles = {"student": finals.students, "plain baseline": finals.plain, "tuned baseline": finals.tuned}
        found |= {f"{role} {finals.capacity}": handles[0] for role, handles in roles.items() if handles}
    return found


def _histories(inputs: evaluation.Inputs) -> dict[str, list[dict[str, float]]]:
    models = {f"teacher {m.name}": m for m in inputs.members} | _judged(inputs)
    histories = {name: model.json("history.json") for name, model in models.items()}
    return {name: history for name, history in histories.items() if history}


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    quality = {f"test/{k}": row.get(k) for k in ("accuracy", "nll", "brier", "ece", "agreement")}
    on_val = {f"val_search/{k}": row[f"val_search_{k}"] for k in ("accuracy", "nll")}
    return {**quality, **on_val, **{k: row[k] for k in COSTS}}


def _key(role: str, handle: Handle) -> str:
    return f"{role}-{handle.fingerprint}"
