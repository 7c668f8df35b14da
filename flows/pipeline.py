"""START HERE: the whole chain, top to bottom.

data -> teachers -> logits -> ensemble weights -> search (T, alpha, capacity) -> student
     -> evaluation -> export -> registry
"""

import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from distillery.config.config_file import load
from distillery.config.experiment import Experiment
from distillery.flows.environment import Places
from distillery.flows.servers import notify
from distillery.flows.tasks import networks, release, stages, studies
from distillery.flows.tasks.external_members import answered
from distillery.flows.tracking import lock, registry
from distillery.flows.tracking.runs import Tracker
from distillery.flows.workers.shared_folder import open_workers
from distillery.stages.data.dataset import read_source
from distillery.stages.ensemble.weight_selection import active
from distillery.stages.evaluation.evaluation import Inputs
from distillery.stages.students.final_models import train_finals
from distillery.stages.teachers.groups import in_one_go
from distillery.store import Handle, Store

Part = Literal["all", "search", "release"]


@flow(name="distillery", flow_run_name="{config.name}", validate_parameters=True)
def pipeline(config: Experiment, part: Part = "all") -> dict[str, Any]:
    """Distils the ensemble that `config` describes and returns the report.

    The part `search` ends with the evaluation, and returns that. The part `release` begins there: it computes nothing
    that comes before, and fails if something of it is not finished.
    """
    began = time.perf_counter()
    places = Places.from_environment()
    lock.check_database(places)
    if places.remote is not None:
        places.remote.check()
    rows = read_source(config.data, Store(places.store))
    tracker = Tracker(places, config.name)
    registry.check_name(tracker.client, config.name)
    with open_workers(places) as workers, _bars() as bars, tracker.pipeline_run(config):
        ctx = stages.Context(config, places, tracker, workers, bars)
        ctx.only_look = part == "release"

        data = stages.prepare_data.submit(ctx, rows).result()
        profiles = [stages.profile_capacity.submit(ctx, c, data).result() for c in config.student.capacities]

        config = ctx.config = answered(ctx, rows, data)
        groups = in_one_go(config.teachers, data, places.device)
        teachers = [networks.train_teachers.submit(ctx, names, member, data) for names, member in groups]
        members = [member for trained in teachers for member in trained.result()]

        def member_logits(split: str, wanted: list[Handle]) -> list[Handle]:
            return [task.result() for task in [stages.cache_logits.submit(ctx, m, split, data) for m in wanted]]

        on_val_ensemble = member_logits("val_ensemble", members)
        ensemble = stages.optimize_weights.submit(ctx, members, on_val_ensemble, data).result()
        taught = member_logits("transfer", [m for m in members if m.name in active(ensemble)])

        search = studies.run_search.submit(ctx, data, ensemble, taught, profiles).result()
        alone = studies.run_baseline_search.submit(ctx, data, search, profiles).result()
        students = partial(networks.begin_students, ctx, data, ensemble, taught)
        finals = train_finals(config, data, search, alone, students, partial(networks.begin_baselines, ctx, data))

        on_val_search, on_test = member_logits("val_search", members), member_logits("test", members)
        chosen = search.json("search.json")["chosen"]
        judged = Inputs(members, on_val_search, on_test, ensemble, finals, chosen, data, profiles)
        evaluation = stages.evaluate_models.submit(ctx, judged, rows).result()
        if part == "search":
            found: dict[str, Any] = evaluation.json("evaluation.json")
            return found
        ctx.only_look = False

        student = next(f.students[0] for f in finals if f.capacity == chosen)
        exported = release.export_student.submit(ctx, student, data, rows).result()
        release.measure_served.submit(ctx, exported, data, rows).result()
        promotion = release.release.submit(ctx, exported, evaluation, data, rows).result()

        seconds, studied = time.perf_counter() - began, (search, alone)
        written = release.write_report.submit(ctx, data, ensemble, *studied, evaluation, exported, promotion, seconds)
        report: dict[str, Any] = written.result()
    return report


@flow(name="distillery-scheduled", flow_run_name="{config_file}", on_failure=[notify.tell], on_crashed=[notify.tell])
def scheduled(config_file: str, overrides: list[str] | None = None, part: Part = "all") -> None:
    """Runs the pipeline on a config file of the working directory, for deployments; see prefect.yaml."""
    notify.address()
    pipeline(load(Path(config_file), overrides or []), part)


def _bars() -> Progress:
    return Progress(
        *(TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()),
        refresh_per_second=4,  # each takes some milliseconds from what trains in this process
        disable=not get_console().is_terminal,  # elsewhere a line in the log tells of each stage
    )
