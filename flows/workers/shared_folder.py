"""Trainings on other machines: workers that Prefect starts take jobs from the store, which all of them share."""

import itertools
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from distillery.errors import InputError
from distillery.flows.environment import Places
from distillery.flows.workers import jobs
from distillery.flows.workers.local import OnEpoch, Workers
from distillery.store import Store

log = logging.getLogger(__name__)

DEPLOYMENT = "distillery-worker/worker"
LOOK_SECONDS = 10.0

T = TypeVar("T")


@flow(name="distillery-worker", flow_run_name="{folder}")
def worker(folder: str) -> int:
    """Works on the jobs of a run until it ends; how many were done."""
    return jobs.work(Path(folder))


class SharedWork(Workers):
    """The same calls as jobs of a folder. Workers that Prefect loses are started again.

    Args:
        count: How many workers Prefect is asked for; 0 where somebody else starts them (``distillery work``).
        store: The folder that all machines share.
    """

    def __init__(self, count: int, store: Path) -> None:
        super().__init__(count)
        self.folder = store / "work" / uuid.uuid4().hex[:12]
        self._numbers = itertools.count()
        self._runs: list[UUID] = []
        self._looked, self._warned = time.monotonic(), False
        self._started = threading.Lock()

    def __enter__(self) -> "SharedWork":
        for left in self.folder.parent.glob("*"):  # by runs that were killed
            if not jobs.is_open(left) and not left.suffix:
                shutil.rmtree(left, ignore_errors=True)
        self._open = jobs.owned(self.folder)
        self._open.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.__exit__(None, None, None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, function: Callable[..., T], *args: object, on_epoch: OnEpoch | None = None, **options: object) -> T:
        """The result of ``function(*args, **options)``, computed by a worker; it may report epochs to `on_epoch`."""
        reports = {"reports": True} if on_epoch is not None else {}
        result: T = self._wait(self._put(function, args, options | reports), on_epoch)
        return result

    def map(self, function: Callable[..., T], calls: Sequence[tuple[object, ...]]) -> list[T]:
        """``[function(*call) for call in calls]``, several at a time."""
        files = [self._put(function, call, {}) for call in calls]
        return [self._wait(file, None) for file in files]

    def _put(self, function: Callable[..., object], args: tuple[object, ...], options: dict[str, object]) -> Path:
        with self._started:
            if not self._runs:
                self._runs = [self._begin() for _ in range(self.count)]
        return jobs.put(self.folder, next(self._numbers), (function, args, options))

    def _begin(self) -> UUID:
        begun = run_deployment(DEPLOYMENT, parameters={"folder": str(self.folder)}, timeout=0, as_subflow=False)
        assert not isinstance(begun, Coroutine)  # which it is where an event loop runs
        return begun.id

    def _wait(self, job: Path, on_epoch: OnEpoch | None) -> Any:
        seen, outcome = 0, None
        while outcome is None:
            outcome = jobs.result_of(job)
            reports, seen = jobs.epochs_of(job, seen)
            for report in reports:
                if on_epoch is not None:
                    on_epoch(*report)
            if outcome is None:
                self._replace_the_dead()
                time.sleep(jobs.POLL_SECONDS)
        jobs.forget(job)
        value, error = outcome
        if error is not None:
            raise error
        return value

    def _replace_the_dead(self) -> None:
        """Now and then looks whether Prefect still runs the workers, and starts new ones for those that ended."""
        with self._started:
            if not self._runs or time.monotonic() - self._looked < LOOK_SECONDS:
                return
            self._looked = time.monotonic()
            with get_client(sync_client=True) as client:
                states = [client.read_flow_run(run).state for run in self._runs]
            over = [state is not None and state.is_final() for state in states]
            if not self._warned and not any(over) and all(state is None or state.is_scheduled() for state in states):
                self._warned = True
                log.warning("no worker has begun yet: prefect worker start --pool %s", pool_of_workers())
            self._runs = [self._begin() if gone else run for gone, run in zip(over, self._runs, strict=True)]


def open_workers(places: Places) -> Workers:
    """What trains: processes of this machine, workers that share the store, or Dask's.

    Raises:
        InputError: Prefect cannot start such workers, or Dask is not installed.
    """
    if places.dask is not None:
        return _open_dask(places, places.dask)
    if not places.shared:
        return Workers(places.workers)
    if places.workers:
        check_workers()
    return SharedWork(places.workers, places.store)


def _open_dask(places: Places, scheduler: str) -> Workers:
    try:
        from distillery.flows.workers.dask_cluster import DaskWork
    except ImportError as error:
        raise InputError(f"DISTILLERY_WORKERS: expected distillery[dask] to be installed, got: {error}") from error
    return DaskWork(scheduler, places.workers, Store(places.store, remote=places.remote))


def check_workers() -> None:
    """Looks whether Prefect knows the workers' deployment.

    Raises:
        InputError: It does not, or its work pool is gone.
    """
    try:
        pool = pool_of_workers()
    except ObjectNotFound as error:
        raise InputError(
            f"DISTILLERY_WORKERS: shared work needs the deployment {DEPLOYMENT!r}, which this Prefect server does "
            "not know; give: prefect --no-prompt deploy --name worker"
        ) from error
    if pool is None:
        raise InputError(f"DISTILLERY_WORKERS: expected a work pool for the deployment {DEPLOYMENT!r}, got none")


def pool_of_workers() -> str | None:
    """The work pool of the workers' deployment; None if it is gone."""
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(DEPLOYMENT).work_pool_name
