"""What the steps of the chain tell a tracker, and the tracker that keeps nothing of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from distillery.store import Handle

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RecordedRun:
    """A run as a step sees it; this one is kept nowhere. `fresh` says whether there is something to record."""

    id = ""
    fresh = False

    def params(self, values: Mapping[str, object]) -> None:
        """Records parameters."""

    def metrics(self, values: Mapping[str, object]) -> None:
        """Records figures; those that do not exist (None) are left out."""

    def epoch(self, epoch: int, values: dict[str, float]) -> None:
        """Adds a point to the training curves."""

    def tags(self, values: Mapping[str, object]) -> None:
        """Records tags."""

    def json(self, value: Mapping[str, object], name: str) -> None:
        """Records a JSON or YAML file."""

    def figure(self, figure: Figure, name: str) -> None:
        """Records a matplotlib figure."""

    def file(self, path: Path, folder: str | None = None) -> None:
        """Records a file."""


class RunTracker(Protocol):
    """Keeps one parent run, and a child for each model, study and trial."""

    @property
    def parent(self) -> RecordedRun:
        """The run of the whole pipeline."""

    def child(
        self, role: str, name: str, key: str, parent: RecordedRun | None = None, *, new: bool = False
    ) -> AbstractContextManager[RecordedRun]:
        """The run that describes `key`, found again or made."""

    def describes(self, run: RecordedRun, known_as: str) -> None:
        """Lets `complete` find a child by more than its name."""

    def complete(self, role: str, name: str, key: str, figures: Mapping[str, object], known_as: str) -> None:
        """Adds figures to the child that is known so."""

    def keys(self, prefix: str) -> dict[str, bool]:
        """Keys with a prefix that runs have, and whether one that has it is finished."""

    def uses(self, handles: list[Handle]) -> None:
        """Notes that the run needs these stages, so that no sweep removes them."""


class Untracked:
    """A tracker that keeps nothing, for runs without MLflow."""

    parent = RecordedRun()

    @contextmanager
    def child(
        self, role: str, name: str, key: str, parent: RecordedRun | None = None, *, new: bool = False
    ) -> Iterator[RecordedRun]:
        """Gives a run that is kept nowhere."""
        yield RecordedRun()

    def describes(self, run: RecordedRun, known_as: str) -> None:
        """Does nothing."""

    def complete(self, role: str, name: str, key: str, figures: Mapping[str, object], known_as: str) -> None:
        """Drops figures."""

    def keys(self, prefix: str) -> dict[str, bool]:
        """Knows no run."""
        return {}

    def uses(self, handles: list[Handle]) -> None:
        """Does nothing: nobody sweeps the store of such a run."""
