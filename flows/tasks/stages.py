"""The tasks of the chain, in its order: each opens a tracked run, calls one library function, returns its handle."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from distillery.config.experiment import Capacity
from distillery.devices import AUTO
from distillery.flows.tasks.context import Context, step
from distillery.flows.tracking.interface import Untracked
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
from distillery.store import Handle

COSTS = ("params", "macs", "size_mb", "latency_ms_p50", "latency_ms_p95", "throughput_per_s")

log = logging.getLogger(__name__)


@step("data")
def prepare_data(ctx: Context, rows: Rows) -> Handle:
    """Splits, preprocessing and encoded rows; every model of the config is tried on them before anything trains."""
    handle = prepare_and_check(ctx.config, rows, ctx.store)
    for note in dataset.Dataset(handle).notes:
        log.warning("data: %s", note)
    return handle


@step("profile", "profile-{capacity.name}")
def profile_capacity(ctx: Context, capacity: Capacity, data: Handle) -> Handle:
    """What one capacity costs."""
    return student_search.profile_capacity(capacity, data, ctx.config.evaluation.latency_runs, ctx.store)


@step("logits", "logits-{member.name}-{split}")
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
    return handle


@step("ensemble-weights")
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
    return handle


@step("evaluation")
def evaluate_models(ctx: Context, inputs: evaluation.Inputs, rows: Rows) -> Handle:
    """Every model on the test split, with pictures on the parent run."""
    handle = evaluation.evaluate(inputs, rows, ctx.config.evaluation, ctx.store)
    if isinstance(ctx.tracker, Untracked):
        return handle
    content = handle.json("evaluation.json")
    parent = ctx.tracker.parent
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
    return handle


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
