"""START HERE: the whole chain, top to bottom.

data -> teachers -> logits -> ensemble weights -> search (T, alpha, capacity) -> student
     -> evaluation -> export -> registry
"""

import time
from pathlib import Path
from typing import Any

from prefect import flow
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from distillery.config import Experiment
from distillery.config_file import load
from distillery.dataset import read_source
from distillery.evaluate import Rung
from distillery.students import Setting
from flows import release, stages
from flows.places import Places
from flows.tracking import Tracker
from flows.workers import Workers


@flow(name="distillery", flow_run_name="{config.name}", validate_parameters=True)
def pipeline(config: Experiment) -> dict[str, Any]:
    """Distils the ensemble that `config` describes and returns the report."""
    began = time.perf_counter()
    places = Places.from_environment()
    rows = read_source(config.data)
    tracker = Tracker(places, config.name)
    with Workers(places.workers) as workers, _bars() as bars, tracker.pipeline_run(config):
        ctx = stages.Context(config, places, tracker, workers, bars)

        data = stages.prepare_data.submit(ctx, rows).result()
        profiles = [stages.profile_capacity.submit(ctx, c, data).result() for c in config.student.capacities]

        teachers = [stages.train_teacher.submit(ctx, name, m, data) for name, m, _ in config.teachers.each()]
        members = [teacher.result() for teacher in teachers]

        def member_logits(split: str) -> list[Any]:
            return [task.result() for task in [stages.cache_logits.submit(ctx, m, split, data) for m in members]]

        on_train, on_val_ensemble, on_val_search = map(member_logits, ("train", "val_ensemble", "val_search"))
        ensemble = stages.optimize_weights.submit(ctx, members, on_val_ensemble, data).result()

        search = stages.run_search.submit(ctx, data, ensemble, on_train, profiles).result()
        found = search.json("search.json")
        finals = []
        for capacity in [c for c in config.student.capacities if c.name in found["best"]]:
            setting = Setting(**found["trials"][found["best"][capacity.name]]["setting"])
            student = stages.train_student.submit(ctx, capacity, setting, data, ensemble, on_train)
            finals.append((capacity.name, student, stages.train_baseline.submit(ctx, capacity, setting, data)))
        rungs = [Rung(name, student.result(), baseline.result()) for name, student, baseline in finals]

        on_test = member_logits("test")
        evaluation = stages.evaluate_models.submit(
            ctx, members, on_val_search, on_test, ensemble, rungs, found["chosen"], data
        ).result()

        chosen = next(rung.student for rung in rungs if rung.capacity == found["chosen"])
        exported = release.export_student.submit(ctx, chosen, data, rows).result()
        promotion = release.release.submit(ctx, exported, evaluation, data, rows).result()

        seconds = time.perf_counter() - began
        written = release.write_report.submit(ctx, data, ensemble, search, evaluation, exported, promotion, seconds)
        report: dict[str, Any] = written.result()
    return report


@flow(name="distillery-scheduled", flow_run_name="{config_file}")
def scheduled(config_file: str, overrides: list[str] | None = None) -> None:
    """Runs the pipeline on a config file of the working directory, for deployments; see prefect.yaml."""
    pipeline(load(Path(config_file), overrides or []))


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), transient=False
    )
