"""The chain as Prefect flows: one for a config, one for the deployments of prefect.yaml."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from distillery.config.config_file import load
from distillery.config.experiment import Experiment
from distillery.flows.environment import Places
from distillery.flows.pipeline import Part, run_chain
from distillery.flows.servers import notify
from distillery.flows.tasks.context import Context
from distillery.flows.tracking import lock, registry
from distillery.flows.tracking.runs import Tracker
from distillery.flows.workers.shared_folder import open_workers
from distillery.stages.data.preparation import read_source
from distillery.stages.evaluation.record import EvaluationResult
from distillery.stages.report.record import Report
from distillery.store import Store


@flow(name="distillery", flow_run_name="{config.name}", validate_parameters=True)
def pipeline(config: Experiment, part: Part = "all") -> Report | EvaluationResult:
    """Runs the chain, or a part of it, and records it in MLflow."""
    places = Places.from_environment()
    lock.check_database(places)
    if places.remote is not None:
        places.remote.check()
    rows = read_source(config.data, Store(places.store))
    tracker = Tracker(places, config.name)
    registry.check_name(tracker.client, config.name)
    with open_workers(places) as workers, _bars() as bars, tracker.pipeline_run(config):
        ctx = Context(config, places, tracker, workers, bars, read_only=part == "release")
        return run_chain(ctx, rows, part)


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
