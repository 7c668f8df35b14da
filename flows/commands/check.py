"""What `distillery check` says of the data of a config, without training."""

from __future__ import annotations

from collections.abc import Sequence

from distillery.config.config_file import load
from distillery.flows.environment import Places
from distillery.stages.checks import prepare_and_check
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preparation import read_source
from distillery.store import Store


def found_in(config_file: str, overrides: Sequence[str]) -> list[str]:
    """A line for the rows and the classes, and for all that is left out, rewritten or looks wrong.

    Raises:
        InputError: Something does not fit the data.
    """
    config = load(config_file, list(overrides))
    handle = prepare_and_check(config, read_source(config.data), Store(Places.from_environment().store))
    data = Dataset(handle)
    counts = ", ".join(f"{count:,} {name}" for name, count in data.rows.items())
    if data.folds is not None:
        counts += f"; train in {data.fold_count} folds, for teachers{' and students' if data.search_by_folds else ''}"
    unread = [f"left out, since it cannot be read: {name}" for name in data.skipped]
    return [f"rows: {counts}", f"classes: {', '.join(data.classes)}", *data.notes, *unread]
