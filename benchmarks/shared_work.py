"""Two workers on one study against one, each a process with one thread that takes jobs from the store's folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path

import speed_tables
from pairs import Results, Side, paired

from distillery.config import config_file
from distillery.flows.workers.shared_folder import SharedWork
from distillery.stages.search import student_search
from distillery.store import Handle, Store

ROOT = Path(__file__).resolve().parent.parent
TRIALS = 96
COHORTS = (8, 16)  # trials of a capacity in a round; 8 unless the config says otherwise
STUDY = [f"search.trials={TRIALS}", "search.halving=null"]


def workers(results: Results, rounds: int) -> None:
    """Trials per second of wall time with two workers, against one."""
    with ExitStack() as opened:
        folders = [Path(opened.enter_context(tempfile.TemporaryDirectory())) for _ in (1, 2)]
        for count, folder in enumerate(folders, 1):
            opened.enter_context(_workers(folder, count))
        for cohort in COHORTS:
            works = [partial(_study, folder, cohort) for folder in folders]
            sides = [Side(f"{n} of them", work, TRIALS) for n, work in enumerate(works, 1)]
            [measured] = paired(sides[:1], sides[1], rounds)  # the first call of each, which imports, does not count
            title = f"trials of a study on the tabular task in cohorts of {cohort}, two workers against one"
            results.row("workers", title, measured, 1.8, "times as many", by="wall")


@contextmanager
def _workers(store: Path, count: int) -> Iterator[None]:
    program = (
        "import sys; from pathlib import Path; from distillery.flows.workers import jobs; "
        "jobs.work_anywhere(Path(sys.argv[1]))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(store / "work")], env=environment) for _ in range(count)
    ]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def _study(store: Path, cohort: int) -> None:
    """The search of configs/tabular.yaml, its three capacities, every trial at its full length."""
    task, profiles = speed_tables.prepared(), _profiles()
    experiment = config_file.load(ROOT / "configs/tabular.yaml", [*STUDY, f"search.trials_per_round={cohort}"])
    with SharedWork(0, store) as shared, tempfile.TemporaryDirectory() as folder:
        upstream = (experiment, task.data, task.ensemble, task.taught, profiles, Store(folder))
        student_search.run_search(*upstream, run_many=shared.map)


@cache
def _profiles() -> list[Handle]:
    """What the capacities cost; measured before."""
    experiment = config_file.load(ROOT / "configs/tabular.yaml")
    capacities, runs = experiment.student.capacities, experiment.evaluation.latency_runs
    kept = Store(speed_tables.HOME / ".distillery")
    return [student_search.profile_capacity(c, speed_tables.prepared().data, runs, kept) for c in capacities]
