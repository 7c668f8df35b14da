"""Trainings on the workers of a Dask scheduler, which need not share a folder with the run that asks for them.

Arguments and results travel as bytes in which a stage is named, not contained. Where its folder is not there, it is
fetched from the remote (distillery/remote.py), to which whoever finished it has sent it.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import queue
import socket
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from distributed import Client, Future, KilledWorker, LocalCluster, get_worker

from distillery.address import masked
from distillery.errors import InputError, first_line
from distillery.flows.environment import LOCAL, Places
from distillery.flows.workers import device_share
from distillery.flows.workers.jobs import Call
from distillery.flows.workers.local import OnEpoch, Workers
from distillery.store import Handle, StageNotFound, Store
from distillery.store.remote import MANIFEST, VARIABLE, Remote

CONNECT_SECONDS = 10

T = TypeVar("T")

log = logging.getLogger(__name__)
logging.getLogger("distributed").setLevel("ERROR")  # importing it has set another level
_alone = threading.Lock()  # torch's random numbers are a process's, not a thread's


class DaskWork(Workers):
    """The same calls as Dask tasks. A job whose worker dies is run by another.

    Args:
        scheduler: Its address; `LOCAL` for one that begins and ends with this, with so many workers as `count`.
        store: Where stages are kept on this machine.
    """

    def __init__(self, scheduler: str, count: int, store: Store) -> None:
        super().__init__(count)
        self._scheduler, self._store = scheduler, store
        self._topic, self._sent = f"distillery-{uuid.uuid4().hex[:12]}", set[str]()

    def __enter__(self) -> DaskWork:
        with ExitStack() as opened:
            self._client = _connected(self._scheduler, self.count, opened)
            _check_workers(self._client)
            self._queue = queue.Queue()  # reports are taken from it by a thread that may take its time
            self._client.subscribe_topic(self._topic, lambda event: self._queue.put(event[1]))
            self._reader = threading.Thread(target=self._listen, daemon=True)
            self._reader.start()
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()
        self._queue.put(None)
        self._reader.join(5)

    def call(self, function: Callable[..., T], *args: object, on_epoch: OnEpoch | None = None, **options: object) -> T:
        """The result of ``function(*args, **options)``, computed by a worker; it may report epochs to `on_epoch`."""
        number = next(self._numbers)
        if on_epoch is not None:
            self._listeners[number] = on_epoch
        try:
            future = self._put((function, args, options), number if on_epoch is not None else None)
            result: T = self._result(future)
            return result
        finally:
            self._listeners.pop(number, None)

    def map(self, function: Callable[..., T], jobs: Sequence[tuple[object, ...]]) -> list[T]:
        """``[function(*job) for job in jobs]``, several at a time."""
        return [self._result(future) for future in [self._put((function, job, {}), None) for job in jobs]]

    def _put(self, call: Call, number: int | None) -> Future:
        content = packed(call, self._share)
        return self._client.submit(
            run, content, str(self._store.root), self._store.remote, self._topic, number, pure=False
        )

    def _share(self, handle: Handle) -> None:
        """Sees to it that a stage that a job needs is at the remote, where workers look for it."""
        if self._scheduler != LOCAL and self._store.remote is not None and handle.fingerprint not in self._sent:
            self._store.remote.send(handle.stage, Path(handle.path))
            self._sent.add(handle.fingerprint)

    def _result(self, future: Future) -> Any:
        try:
            return unpacked(future.result(), self._store)
        except KilledWorker as error:
            raise RuntimeError("a job took several Dask workers down with it; see their logs") from error


def run(content: bytes, root: str, remote: Remote | None, topic: str, number: int | None) -> bytes:
    """On a worker: the packed result of a packed call. The store is in its own DISTILLERY_HOME, if it has one."""
    device_share.take()
    ours = Path(root).is_dir() and "DISTILLERY_HOME" not in os.environ
    store = Store(root if ours else Places.from_environment().store, remote=remote)
    function, args, options = unpacked(content, store)
    if number is not None:
        worker = get_worker()
        options["on_epoch"] = lambda *report: worker.log_event(topic, (number, *report))
    with _alone:
        return packed(function(*args, **options))


def packed(value: object, on_handle: Callable[[Handle], None] = lambda handle: None) -> bytes:
    """A value as bytes in which handles and stores are named; `on_handle` is given each handle."""
    stream = io.BytesIO()
    _Pickler(stream, on_handle).dump(value)
    return stream.getvalue()


def unpacked(content: bytes, store: Store) -> Any:
    """The value again, with the store that is given, and handles of stages that are in it or where they were."""
    return _Unpickler(io.BytesIO(content), store).load()


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, on_handle: Callable[[Handle], None]) -> None:
        super().__init__(stream)
        self._on_handle = on_handle

    def persistent_id(self, value: object) -> object:
        if isinstance(value, Store):
            return "store"
        if isinstance(value, Handle):
            self._on_handle(value)
            return tuple(vars(value).items())
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, store: Store) -> None:
        super().__init__(stream)
        self._store = store

    def persistent_load(self, name: Any) -> Store | Handle:
        return self._store if name == "store" else _here(Handle(**dict(name)), self._store)


def _here(handle: Handle, store: Store) -> Handle:
    """The handle of a stage in a store, to which it is fetched if need be, or else where its path says."""
    own, host = store.root / handle.stage / handle.fingerprint, socket.gethostname()
    if not (own / MANIFEST).exists() and store.remote is not None:
        with suppress(StageNotFound):
            store.find(handle.stage, handle.fingerprint, handle.name)
    for folder in (own, Path(handle.path)):
        if (folder / MANIFEST).exists():
            return replace(handle, path=str(folder))
    if store.remote is None:
        wanted = f"storage to fetch stages from, since {host} does not share the folder {handle.path}"
        raise InputError(f"{VARIABLE}: expected {wanted}, got none")
    raise ConnectionError(f"{handle.stage} {handle.name!r}: neither on {host} nor at {store.remote.shown}")


def _connected(scheduler: str, count: int, opened: ExitStack) -> Client:
    address: str | LocalCluster = scheduler
    if scheduler == LOCAL:
        alone = {
            "threads_per_worker": 1,
            "memory_limit": 0,
            "dashboard_address": "127.0.0.1:0",
            "silence_logs": logging.ERROR,
        }
        address = opened.enter_context(LocalCluster(n_workers=count, **alone))
    try:
        return opened.enter_context(Client(address, timeout=CONNECT_SECONDS, set_as_default=False))
    except (OSError, ValueError) as error:
        raise InputError(
            f"DISTILLERY_WORKERS: expected a Dask scheduler that answers at {masked(scheduler)!r}, "
            f"got: {first_line(error)}"
        ) from error


def _check_workers(client: Client) -> None:
    info = client.scheduler_info(n_workers=-1)
    workers = info["workers"].values()
    if not workers:
        log.warning("no Dask worker is there yet: dask worker --nthreads 1 %s", info["address"])
    if threads := max((worker["nthreads"] for worker in workers), default=1) - 1:
        raise InputError(
            "DISTILLERY_WORKERS: expected Dask workers of one thread each (dask worker --nthreads 1), "
            f"got one of {threads + 1}"
        )
