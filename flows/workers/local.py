"""Several trainings at the same time: plain library calls in a pool of processes, their epochs reported back here."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from typing import TypeVar

from distillery.flows.safe_text import tell_warnings
from distillery.flows.workers import device_share
from distillery.store import StageNotFound, Store
from distillery.training import torchrun

OnEpoch = Callable[..., None]
Event = tuple[int, *tuple[object, ...]]
"""The number of a call, and what it reports."""

T = TypeVar("T")

_events: Queue[Event | None] | None = None  # the queue back to the parent, in a worker process


class Workers:
    """Runs library functions in `count` processes, or in this one if `count` is 1 and several do not train one teacher.

    Use as a context manager: leaving it ends the processes, by an interruption at once, else after what they work on.

    Args:
        count: Number of processes. Each has GPUs of its own (flows/workers/device_share.py) and its part of the cores.
    """

    _queue: Queue[Event | None] | queue.Queue[Event | None]

    def __init__(self, count: int) -> None:
        self.count = count
        self._numbers = itertools.count()
        self._listeners: dict[int, OnEpoch] = {}
        self._turn = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def _start(self) -> None:
        # Processes that train one teacher together are started by one that can be ended, which a thread of this cannot.
        if (self.count == 1 and torchrun.processes() == 1) or self._pool is not None:
            return
        with self._turn:
            if self._pool is not None:
                return
            # A fork would copy the locks of this process's threads.
            context = multiprocessing.get_context("spawn")
            self._queue = context.Queue()
            threads = max(1, len(os.sched_getaffinity(0)) // self.count)
            pool = ProcessPoolExecutor(self.count, context, _begin, (self._queue, threads))
            self._reader = threading.Thread(target=self._listen, daemon=True)
            self._reader.start()
            self._pool = pool

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            if kind is not None and not issubclass(kind, Exception):  # interrupted or cancelled: nobody waits for them
                for process in list(self._pool._processes.values()):
                    process.terminate()
            self._pool.shutdown(cancel_futures=True)
            self._queue.put(None)
            self._reader.join(5)
            self._pool = None

    def stage(
        self,
        function: Callable[..., T],
        *args: object,
        store: Store,
        on_epoch: OnEpoch | None = None,
        **options: object,
    ) -> T:
        """The handles of ``function(*args, store, **options)``: found in the store at once, or computed in a worker."""
        with suppress(StageNotFound):
            return function(*args, store.as_read_only(), **options)
        return self.call(function, *args, store, on_epoch=on_epoch, **options)

    def call(self, function: Callable[..., T], *args: object, on_epoch: OnEpoch | None = None, **options: object) -> T:
        """The result of ``function(*args, **options)``, computed in a worker; it may report epochs to `on_epoch`."""
        self._start()
        if self._pool is None:
            with self._turn:
                return function(*args, **options, **({"on_epoch": on_epoch} if on_epoch is not None else {}))
        number = next(self._numbers)
        if on_epoch is not None:
            self._listeners[number] = on_epoch
        try:
            return self._pool.submit(_call, number, on_epoch is not None, function, args, options).result()
        finally:
            self._listeners.pop(number, None)

    def map(self, function: Callable[..., T], jobs: Sequence[tuple[object, ...]]) -> list[T]:
        """``[function(*job) for job in jobs]``, several at a time."""
        self._start()
        if self._pool is None:
            with self._turn:
                return [function(*job) for job in jobs]
        return [future.result() for future in [self._pool.submit(function, *job) for job in jobs]]

    def _listen(self) -> None:
        while (event := self._queue.get()) is not None:
            number, *report = event
            if number in self._listeners:
                self._listeners[number](*report)


def _begin(events: Queue[Event | None], threads: int) -> None:
    global _events
    _events = events
    tell_warnings()
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    device_share.take(threads)


def _end_with(parent: BaseProcess) -> None:
    # A pool's process does not notice that nobody is there any more, and would wait for ever.
    parent.join()
    os._exit(1)


def _call(
    number: int, reports: bool, function: Callable[..., T], args: tuple[object, ...], options: dict[str, object]
) -> T:
    def on_epoch(*report: object) -> None:
        assert _events is not None
        _events.put((number, *report))

    return function(*args, **options, **({"on_epoch": on_epoch} if reports else {}))
