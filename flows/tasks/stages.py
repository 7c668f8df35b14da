"""The tasks of the chain, in its order: each opens a tracked run, calls one library function, returns its handle."""

from __future__ import annotations

import logging

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
from distillery.stages.evaluation.inputs import Inputs
from distillery.stages.evaluation.record import EvaluationResult, ModelRow
from distillery.stages.logits import logit_cache
from distillery.stages.report import figures
from distillery.stages.roles import Role
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
def cache_logits(ctx: Context, member: Handle, split: str, data: Handle, without: int | None = None) -> Handle:
    """Raw logits of one member on one split; on the transfer set, of every view that the students will see.

    `without` is the fold that these students are judged on; see `logit_cache.cache_logits`.
    Found ones are compared with what the member answers now, on a sample.
    """
    is_transfer = split == "transfer"
    handle: Handle = ctx.workers.stage(
        logit_cache.cache_logits,
        member,
        split,
        data,
        ctx.config.logits,
        store=ctx.store,
        device=AUTO,
        views=ctx.config.student.views if is_transfer else None,
        without=without,
        temperatures=ctx.config.search.temperatures if is_transfer else (),
    )
    if handle.cached and is_transfer:
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
def evaluate_models(ctx: Context, inputs: Inputs, rows: Rows) -> Handle:
    """Every model on the test split, with pictures on the parent run."""
    handle = evaluation.evaluate(inputs, rows, ctx.config.evaluation, ctx.store)
    if isinstance(ctx.tracker, Untracked):
        return handle

    result = EvaluationResult.read(handle)
    logits = evaluation.logits_on_test(handle)
    labels = dataset.Dataset(inputs.data).labels("test")
    compared = {result.compared(role).title: values for role, values in logits.items()}
    candidate = result.candidate
    counts = metrics.confusion(logits[candidate.role], labels)
    networks = _networks(inputs)

    parent = ctx.tracker.parent
    parent.figure(figures.front_figure(result.rows), "front.png")
    parent.figure(figures.reliability_figure(compared, labels), "reliability.png")
    title = f"{candidate.title} on test"
    parent.figure(figures.confusion_figure(counts, result.classes, title), "confusion.png")
    parent.figure(figures.curves_figure(_histories(inputs, networks)), "training_curves.png")
    for row in result.rows:
        known_as = row.title
        if row.title in networks:
            known_as = f"{row.role.words} {networks[row.title].fingerprint}"
        ctx.tracker.complete(row.role.words, row.title, handle.fingerprint, _figures(row), known_as)
    return handle


def _networks(inputs: Inputs) -> dict[str, Handle]:
    """Of all seeds, the networks that have a row in the evaluation, by its title."""
    networks: dict[str, Handle] = {}
    for final in inputs.finals:
        for role in (Role.STUDENT, Role.PLAIN, Role.TUNED):
            handles = final.of(role)
            if handles:
                networks[f"{role.words} {final.capacity}"] = handles[0]
    return networks


def _histories(inputs: Inputs, networks: dict[str, Handle]) -> dict[str, list[dict[str, float]]]:
    """Training curves of all models that were trained by gradients, by title."""
    models = {f"teacher {member.name}": member for member in inputs.members} | networks
    histories = {title: model.json("history.json") for title, model in models.items()}
    return {title: history for title, history in histories.items() if history}


def _figures(row: ModelRow) -> dict[str, float | None]:
    on_test = {f"test/{name}": getattr(row, name) for name in ("accuracy", "nll", "brier", "ece", "agreement")}
    on_val = {"val_search/accuracy": row.val_search_accuracy, "val_search/nll": row.val_search_nll}
    return {**on_test, **on_val, **{name: getattr(row, name) for name in COSTS}}


def _key(role: str, handle: Handle) -> str:
    return f"{role}-{handle.fingerprint}"
