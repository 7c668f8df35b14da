"""The two studies: students of every capacity, and the chosen capacity without a teacher. Each trial is a run."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from distillery.devices import AUTO
from distillery.flows.tasks.context import Context, step
from distillery.flows.tasks.stages import COSTS
from distillery.flows.tracking.interface import RecordedRun
from distillery.stages.data.dataset import LEARNED, Dataset
from distillery.stages.report import figures
from distillery.stages.search import student_search
from distillery.stages.search.record import SearchResult, Trial
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
    result = SearchResult.read(found)
    run = partial(student_search.run_baseline_search, ctx.config, data, found, profiles, ctx.store)
    key = [
        student_search.study_settings(ctx.config, "baseline"),
        result.chosen,
        result.trials_of_chosen,
        Dataset(data).digest(*LEARNED),
    ]
    return _study(ctx, "baseline search", result.trials_of_chosen, fingerprint("baseline search", key), run)


def _study(ctx: Context, name: str, total: int, key: str, run_study: Callable[..., Handle]) -> Handle:
    with ctx.tracker.child("study", name, f"study-{key}") as study:
        before = ctx.tracker.keys(f"trial-{key}-")
        advance = ctx.bar(name, total)
        advance(sum(before.values()))

        def on_trial(trial: Trial) -> None:
            _log_trial(ctx, study, f"trial-{key}-{trial.number}", trial, before)
            advance(trial.number + 1)

        handle = run_study(device=AUTO, run_many=ctx.workers.map, on_trial=on_trial, database=ctx.study_database)
        advance(total)
        if study.fresh:
            result = SearchResult.read(handle)
            logged = ctx.tracker.keys(f"trial-{key}-")
            for trial in result.trials:
                if not logged.get(f"trial-{key}-{trial.number}"):
                    _log_trial(ctx, study, f"trial-{key}-{trial.number}", trial, logged)
            study.params({"role": "study", "trials": total, "objectives": ", ".join(result.objectives)})
            study.metrics({f"val_search/{name}": handle.metrics[name] for name in ("nll", "accuracy")})
            study.tags({"optuna.study": result.study, "chosen": result.chosen})
            study.json(result.model_dump(mode="json"), result.FILE)
            study.figure(figures.search_figure(result.trials), "trials.png")
    return handle


def _log_trial(ctx: Context, study: RecordedRun, key: str, trial: Trial, known: Collection[str]) -> None:
    name = f"trial {trial.number:03d} {trial.capacity}"
    with ctx.tracker.child("trial", name, key, study, new=key not in known) as run:
        if not run.fresh:
            return
        setting = {knob: v["name"] if isinstance(v, dict) else v for knob, v in trial.setting.items()}
        options = {knob: value for knob, value in trial.proposal.items() if "." in knob}
        run.params({"role": "trial", "model": trial.capacity, **setting, **options})
        run.tags({"state": trial.state.value})
        if trial.reason is not None:
            run.tags({"reason": trial.reason})
        run.metrics({"val_search/accuracy": trial.accuracy, "val_search/nll": trial.nll})
        run.metrics({name: getattr(trial, name) for name in COSTS})
        run.metrics({"train_seconds": trial.seconds})
