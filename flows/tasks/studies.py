"""The two studies: students of every capacity, and the chosen capacity without a teacher. Each trial is a run."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from distillery.devices import AUTO
from distillery.flows.tasks.context import Context, step
from distillery.flows.tasks.stages import COSTS
from distillery.flows.tracking.interface import RecordedRun
from distillery.stages.data.dataset import LEARNED, Dataset
from distillery.stages.report import figures
from distillery.stages.search import student_search
from distillery.store import Handle, fingerprint


@step("search")
def run_search(
    ctx: Context, data: Handle, pooled: Handle, transfer_logits: list[Handle], profiles: list[Handle]
) -> Handle:
    """The study of students; each trial is a run below the study's."""
    trials, rows = ctx.config.search.trials, Dataset(data).digest(*LEARNED)
    taught = [pooled.fingerprint, *(h.fingerprint for h in transfer_logits)]
    key = [student_search.study_settings(ctx.config, "student"), trials, taught, rows]
    run = partial(student_search.run_search, ctx.config, data, pooled, transfer_logits, profiles, ctx.store)
    return _study(ctx, "search", trials, fingerprint("search", key), run)


@step("baseline-search")
def run_baseline_search(ctx: Context, data: Handle, found: Handle, profiles: list[Handle]) -> Handle:
    """The study of the chosen capacity without a teacher, with as many trials as it had with one."""
    content = found.json("search.json")
    trials = sum(record["capacity"] == content["chosen"] for record in content["trials"])
    run = partial(student_search.run_baseline_search, ctx.config, data, found, profiles, ctx.store)
    key = [
        student_search.study_settings(ctx.config, "baseline"),
        content["chosen"],
        trials,
        Dataset(data).digest(*LEARNED),
    ]
    return _study(ctx, "baseline search", trials, fingerprint("baseline search", key), run)


def _study(ctx: Context, name: str, total: int, key: str, run_study: Callable[..., Handle]) -> Handle:
    with ctx.tracker.child("study", name, f"study-{key}") as study:
        before = ctx.tracker.keys(f"trial-{key}-")
        advance = ctx.bar(name, total)
        advance(sum(before.values()))

        def on_trial(record: dict[str, Any]) -> None:
            _log_trial(ctx, study, f"trial-{key}-{record['number']}", record, before)
            advance(record["number"] + 1)

        handle = run_study(device=AUTO, run_many=ctx.workers.map, on_trial=on_trial, database=ctx.study_database)
        advance(total)
        content = handle.json("search.json")
        if study.fresh:
            logged = ctx.tracker.keys(f"trial-{key}-")
            for record in content["trials"]:
                if not logged.get(f"trial-{key}-{record['number']}"):
                    _log_trial(ctx, study, f"trial-{key}-{record['number']}", record, logged)
            study.params({"role": "study", "trials": total, "objectives": ", ".join(content["objectives"])})
            study.metrics({f"val_search/{k}": handle.metrics[k] for k in ("nll", "accuracy")})
            study.tags({"optuna.study": content["study"], "chosen": content["chosen"]})
            study.json(content, "search.json")
            study.figure(figures.search_figure(content["trials"]), "trials.png")
    return handle


def _log_trial(ctx: Context, study: RecordedRun, key: str, record: dict[str, Any], known: Collection[str]) -> None:
    name = f"trial {record['number']:03d} {record['capacity']}"
    with ctx.tracker.child("trial", name, key, study, new=key not in known) as run:
        if run.fresh:
            setting = {k: v["name"] if isinstance(v, dict) else v for k, v in record["setting"].items()}
            options = {k: v for k, v in record["proposal"].items() if "." in k}
            run.params({"role": "trial", "model": record["capacity"], **setting, **options})
            run.tags({"state": record["state"], **({"reason": record["reason"]} if "reason" in record else {})})
            figures_ = {f"val_search/{k}": record.get(k) for k in ("accuracy", "nll")}
            run.metrics({**figures_, **{k: record[k] for k in COSTS}, "train_seconds": record.get("seconds")})
