"""Removes from the store what no recent run and no model version needs."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from distillery.errors import InputError
from distillery.flows.environment import Places
from distillery.flows.tracking import history, records, registry
from distillery.flows.tracking.runs import MlflowClient
from distillery.store import sweep


def clean(places: Places, client: MlflowClient, console: Console, *, keep: int, dry_run: bool = False) -> None:
    """Removes stages, and prints a line for each kind of them.

    What was used within a day stays in any case.

    Args:
        places: Where the store and the reports are.
        client: Of the model registry.
        console: Where to print.
        keep: How many of the last finished runs of each experiment keep their stages.
        dry_run: Print the same lines, and remove nothing.

    Raises:
        InputError: A number below 1, or an experiment whose stages are not known.
    """
    if keep < 1:
        raise InputError(f"--keep: expected a number of runs, 1 or more, got {keep}")
    needed, since, outdated = _by_versions(client), time.time(), list[Path]()
    for folder in sorted(path for path in places.runs.glob("*") if path.is_dir()):
        kept, rest = _last_runs(folder, keep)
        needed |= set[str]().union(*(run.stages for run in kept))
        # A run at work notes its stages by and by: whatever was used since it began may be one of them.
        since = min([since, *(run.began for run in kept if run.at_work)])
        outdated += [run.file for run in rest]

    total = 0
    for swept in sweep.sweep(places.store, needed, since=since, dry_run=dry_run):
        total += swept.bytes
        what = f"{swept.removed} of {swept.found} stages, {swept.leftovers} unfinished, {swept.bytes / 1e6:,.1f} MB"
        console.print(f"{swept.kind:10} {what}", highlight=False)
    console.print(f"{'in all':10} {total / 1e6:,.1f} MB", highlight=False)
    if not dry_run:
        for file in outdated:
            file.unlink(missing_ok=True)


def check(places: Places, console: Console) -> bool:
    """Reads every file of the store, and prints a line for each stage that is damaged; whether there is none.

    A damaged stage is computed again when it is next asked for. Files of data sources are read again by the next run.
    """
    damaged = list(sweep.damaged(places.store))
    for stage in damaged:
        console.print(f"damaged: {stage}", highlight=False, markup=False, soft_wrap=True)
    return not damaged


def _last_runs(folder: Path, keep: int) -> tuple[list[records.Noted], list[records.Noted]]:
    """The last runs of an experiment, and those before."""
    runs = records.noted(folder)
    if not runs and (folder / "report.json").is_file():
        raise InputError(
            f"clean: expected a record of the stages that the report of {folder.name!r} rests on, got a report of an "
            f"earlier version; give `distillery run` for it once more, or remove {folder}"
        )
    ended = [index for index, run in enumerate(runs) if run.ended]
    first = ended[-keep] if len(ended) >= keep else 0
    # A run that did not end well is needed to go on with, as long as it is as recent.
    kept = [run for index, run in enumerate(runs) if index >= first or run.at_work]
    return kept, [run for run in runs if run not in kept]


def _by_versions(client: MlflowClient) -> set[str]:
    """The stages that model versions were made from: those with an alias, and those that were once the champion."""
    needed = set()
    for name in registry.names(client):
        model = registry.registered(client, name)
        if model is None:
            continue
        champions = {entry.version for entry in history.read(model.tags) if entry.moves}
        for number in champions | {int(version) for version in model.aliases.values()}:
            version = registry.by_version(client, name, number)
            if version is not None:
                needed |= {f"export/{version.tags.get(registry.FINGERPRINT)}", f"data/{version.tags.get('data')}"}
    return needed
