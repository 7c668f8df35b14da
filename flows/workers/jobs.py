"""Jobs in a folder that several machines share: a queue whose workers may die.

A job is a pickled call of a library function. Whoever holds the kernel's lock on its file works on it; the lock is
dropped when its holder dies, on this machine or, through NFS, on another, and then the next one takes the job. A result
is written under another name and renamed, so that it is whole or not there.
"""

from __future__ import annotations

import fcntl
import json
import logging
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distillery.flows.workers import device_share
from distillery.store.kernel_lock import try_lock

TRIES = 3  # times that a job may take its worker down
POLL_SECONDS, LONGEST_POLL_SECONDS = 0.01, 0.25
OWNER = "owner.lock"

Call = tuple[Callable[..., object], tuple[object, ...], dict[str, object]]
"""A function, its arguments, and named ones."""

log = logging.getLogger(__name__)


@contextmanager
def owned(folder: Path) -> Iterator[Path]:
    """The folder, open for workers until the block is left or this process dies."""
    begun = folder.with_suffix(".new")
    begun.mkdir(parents=True)
    with (begun / OWNER).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        begun.rename(folder)  # whoever sees it, sees it locked
        yield folder


def is_open(folder: Path) -> bool:
    """Whether somebody still waits for the jobs of a folder."""
    try:
        with (folder / OWNER).open("r+") as stream:
            return not try_lock(stream)
    except FileNotFoundError:
        return False


def put(folder: Path, number: int, call: Call) -> Path:
    """The file of a new job."""
    file = folder / f"{number:06d}.job"
    _write(file, pickle.dumps(call))
    return file


def result_of(job: Path) -> tuple[Any, Exception | None] | None:
    """(what a job returned, or what it raised); None while it is not done."""
    try:
        content = job.with_suffix(".done").read_bytes()
    except FileNotFoundError:
        return None
    value, error = pickle.loads(content)
    return value, error


def epochs_of(job: Path, seen: int) -> tuple[list[list[object]], int]:
    """(what the job has reported since byte `seen`, the bytes that are read now)."""
    try:
        with job.with_suffix(".epochs").open("rb") as stream:
            stream.seek(seen)
            whole = stream.read().rpartition(b"\n")[0]
    except FileNotFoundError:
        return [], seen
    return [json.loads(line) for line in whole.splitlines()], seen + len(whole) + bool(whole)


def forget(job: Path) -> None:
    """Removes a job that is done."""
    for suffix in (".job", ".epochs", ".tries", ".done"):
        job.with_suffix(suffix).unlink(missing_ok=True)


def work(folder: Path) -> int:
    """Works on the jobs of a folder until nobody waits for them any more; how many were done."""
    done, pause = 0, POLL_SECONDS
    while is_open(folder):
        if _one_of(folder):
            done, pause = done + 1, POLL_SECONDS
        else:
            pause = _wait(pause)
    return done


def work_anywhere(root: Path) -> None:
    """Works on the jobs of every folder below a root that is open, until it is stopped."""
    pause = POLL_SECONDS
    while True:
        pause = POLL_SECONDS if turn(root) else _wait(pause)


def turn(root: Path) -> int:
    """Works on one job of each open folder below a root: no run waits for another one. How many were done."""
    folders = sorted(path for path in root.glob("*") if not path.suffix)
    return sum(_one_of(folder) for folder in folders if is_open(folder))


def _one_of(folder: Path) -> bool:
    """Runs the first job of a folder that is left; whether there was one."""
    return any(_try(job) for job in sorted(folder.glob("*.job")))


def _wait(pause: float) -> float:
    """Waits so many seconds; the next time longer."""
    time.sleep(pause)
    return min(1.1 * pause, LONGEST_POLL_SECONDS)


def _try(job: Path) -> bool:
    """Runs a job unless it is done or another worker has it; whether it was run."""
    if job.with_suffix(".done").exists():
        return False
    with suppress(FileNotFoundError), job.open("r+b") as stream:
        if not try_lock(stream) or not job.exists() or job.with_suffix(".done").exists():
            return False
        tries = job.with_suffix(".tries")
        before = len(tries.read_bytes()) if tries.exists() else 0
        if before >= TRIES:
            error = RuntimeError(f"a job took {TRIES} workers down with it; see their logs")
            _write(job.with_suffix(".done"), pickle.dumps((None, error)))
            return True
        tries.write_bytes(b"." * (before + 1))
        if before:
            log.warning("job %s: its worker died, it is run again", job.stem)
        _write(job.with_suffix(".done"), _run(stream.read(), job))
        return True
    return False  # done and forgotten meanwhile


def _run(content: bytes, job: Path) -> bytes:
    try:
        device_share.take()
        function, args, options = pickle.loads(content)
        with job.with_suffix(".epochs").open("w") as stream:
            if options.pop("reports", False):
                options["on_epoch"] = lambda *report: print(json.dumps(report), file=stream, flush=True)
            return pickle.dumps((function(*args, **options), None))
    except Exception as error:
        try:
            return pickle.dumps((None, pickle.loads(pickle.dumps(error))))
        except Exception:  # an error that cannot travel
            return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))


def _write(file: Path, content: bytes) -> None:
    temporary = file.with_name(f"{file.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(file)
