"""What every step of the chain needs besides its inputs, and what makes a step of a function."""

from __future__ import annotations

import copy
import errno
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from rich.progress import Progress

from distillery.config.experiment import Experiment
from distillery.flows.environment import Places
from distillery.flows.tracking.interface import RunTracker, Untracked
from distillery.flows.workers.local import Workers
from distillery.store import Handle, Store

# Prefect and MLflow are imported where they are used: the chain also runs without them.
if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

RETRIES = 2
RETRY_SECONDS: list[float] = [2, 15]

log = logging.getLogger(__name__)


class Context:
    """What every step needs besides its inputs, for the length of one run.

    Prefect looks into dataclasses that a task is given; this one holds more than it should look through.

    Attributes:
        config: The experiment.
        places: Where stages and reports are kept, and what the machine offers.
        tracker: Where runs are recorded: MLflow, or nowhere.
        workers: What trains.
        bars: Progress bars.
        orchestrated: Whether Prefect runs the steps; else they run at once, one after another, in this process.
        read_only: Whether a stage that is not finished is an error.
        handles: The stages that were used so far, for the report.
    """

    def __init__(
        self,
        config: Experiment,
        places: Places,
        tracker: RunTracker,
        workers: Workers,
        bars: Progress,
        *,
        orchestrated: bool = True,
        read_only: bool = False,
    ) -> None:
        self.config = config
        self.places = places
        self.tracker = tracker
        self.workers = workers
        self.bars = bars
        self.orchestrated = orchestrated
        self.read_only = read_only
        self.handles: list[Handle] = []

    @classmethod
    def untracked(cls, config: Experiment, places: Places) -> Context:
        """A run without Prefect and MLflow, in this process."""
        return cls(config, places, Untracked(), Workers(1), Progress(disable=True), orchestrated=False)

    @property
    def store(self) -> Store:
        """Where stages are kept."""
        return Store(self.places.store, only_look=self.read_only, remote=self.places.remote)

    @property
    def study_database(self) -> str | None:
        """Where Optuna keeps the studies of several machines; None for a file of this one."""
        if not self.orchestrated:
            return None
        from distillery.flows.tracking import lock

        return lock.address(self.places)

    def with_config(self, config: Experiment) -> Context:
        """The same run with another config."""
        changed = copy.copy(self)
        changed.config = config
        return changed

    def writing(self) -> Context:
        """The same run, which computes what is not finished."""
        changed = copy.copy(self)
        changed.read_only = False
        return changed

    def bar(self, text: str, total: int) -> Callable[[int], None]:
        """A progress bar, as a function that moves it to a position."""
        number = self.bars.add_task(text, total=total)
        return lambda position: self.bars.update(number, completed=position)

    def note(self, handles: list[Handle]) -> None:
        """Notes stages for the report, and that this run needs them; the log says how long each took."""
        self.handles.extend(handles)
        self.tracker.uses(handles)
        names = ", ".join(dict.fromkeys(handle.name for handle in handles))
        seconds = [handle.seconds for handle in handles if not handle.cached]
        how = f"finished in {sum(seconds):.1f} s" if seconds else "found finished"
        log.info("%s '%s': %s", handles[0].stage, names, how)


class Pending(Protocol[R_co]):
    """A step that was begun."""

    def result(self) -> R_co:
        """Waits for what the step returns."""


@dataclass(frozen=True)
class Finished(Generic[R_co]):
    """A step that ran at once."""

    value: R_co

    def result(self) -> R_co:
        """What the step returned."""
        return self.value


class Step(Generic[P, R]):
    """A step of the chain: a function of the context and its inputs, which Prefect runs as a task.

    Handles that it returns are noted for the report. Prefect shows a stage that was found finished as `Cached`.

    Args:
        function: The step.
        name: Its name in Prefect.
        run_name: The name of each of its runs there; a template over the function's parameters.
    """

    def __init__(self, function: Callable[Concatenate[Context, P], R], name: str, run_name: str | None) -> None:
        self._function = function
        self._name = name
        self._run_name = run_name
        functools.update_wrapper(self, function)

    def __call__(self, ctx: Context, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the step and waits for its result."""
        return self.begin(ctx, *args, **kwargs).result()

    def begin(self, ctx: Context, *args: P.args, **kwargs: P.kwargs) -> Pending[R]:
        """Begins the step; under Prefect, several that were begun run at the same time."""
        if ctx.orchestrated:
            pending: Pending[R] = self._task.submit(ctx, *args, **kwargs)
            return pending
        return Finished(self._run(ctx, *args, **kwargs))

    def _run(self, ctx: Context, *args: P.args, **kwargs: P.kwargs) -> R:
        result = self._function(ctx, *args, **kwargs)
        handles = _handles_of(result)
        if handles:
            ctx.note(handles)
        return result

    @functools.cached_property
    def _task(self) -> Any:
        """The step as a task of Prefect's, which shows what was found finished as `Cached`."""
        from prefect import task
        from prefect.cache_policies import NO_CACHE
        from prefect.states import Completed

        # Prefect reads the parameters' names from the function, for the names of its runs.
        @functools.wraps(self._function)
        def run(ctx: Context, *args: P.args, **kwargs: P.kwargs) -> Any:
            result = self._run(ctx, *args, **kwargs)
            handles = _handles_of(result)
            if not handles or not all(handle.cached for handle in handles):
                return result
            paths = ", ".join(handle.path for handle in handles)
            return Completed(name="Cached", message=f"found in the store: {paths}", data=result)

        decorate = task(
            name=self._name,
            task_run_name=self._run_name,
            cache_policy=NO_CACHE,
            retries=RETRIES,
            retry_delay_seconds=RETRY_SECONDS,
            retry_condition_fn=transient,
        )
        return decorate(run)


def step(name: str, run_name: str | None = None) -> Callable[[Callable[Concatenate[Context, P], R]], Step[P, R]]:
    """Decorator that makes a step of a function of the context and its inputs."""

    def decorate(function: Callable[Concatenate[Context, P], R]) -> Step[P, R]:
        return Step(function, name, run_name)

    return decorate


def transient(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether trying again may help: files and servers come back, wrong input and a full disk do not."""
    from distillery.flows.tracking.runs import STORE_ERRORS

    failure = state.result(raise_on_failure=False)
    if isinstance(failure, OSError):
        return failure.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.ENOENT)
    return isinstance(failure, STORE_ERRORS)


def _handles_of(result: Any) -> list[Handle]:
    """The stages that a step returns: one, a list of them, or none."""
    if isinstance(result, Handle):
        return [result]
    if isinstance(result, list) and all(isinstance(part, Handle) for part in result):
        return result
    return []
