"""The pool of processes."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest

from distillery.flows.workers.local import Workers


def test_workers_share_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: each process sees one GPU of its own."""
    (tmp_path / "seen").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setenv("DISTILLERY_DEVICE", "cuda")
    with Workers(2) as workers:
        seen = workers.map(_seen_together, [(tmp_path / "seen", 2), (tmp_path / "seen", 2)])
    assert sorted(seen) == ["4", "6"]


def _seen_together(folder: Path, others: int) -> str:
    """What this process sees, once so many have come here."""
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < others:
        time.sleep(0.01)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    """contract: after SIGKILL of the process that has the pool, its workers end, those at work too."""
    parent = multiprocessing.get_context("spawn").Process(target=_busy_workers, args=(tmp_path,))
    parent.start()
    while not (tmp_path / "pid").exists():
        assert parent.is_alive()
        time.sleep(0.01)  # the core is for the workers, which import
    assert parent.pid is not None
    started = [p for p in psutil.Process(parent.pid).children() if "spawn_main" in " ".join(p.cmdline())]
    assert int((tmp_path / "pid").read_text()) in [process.pid for process in started]
    parent.kill()
    ends = time.monotonic() + 30
    while any(map(_runs, started)):
        assert time.monotonic() < ends
        time.sleep(0.01)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_interrupted_pool_ends_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: Ctrl-C does not wait for a training; one worker is a process, too, where several train one teacher."""
    monkeypatch.setenv("DISTILLERY_GPUS_PER_TRAINING", "2")
    with ThreadPoolExecutor(1) as thread:
        with pytest.raises(KeyboardInterrupt), Workers(1) as workers:
            call = thread.submit(workers.call, _stay, tmp_path)
            while not (tmp_path / "pid").exists():
                assert not call.done()
                time.sleep(0.01)
            raise KeyboardInterrupt
        assert isinstance(call.exception(), BrokenProcessPool)


def _busy_workers(folder: Path) -> None:
    with Workers(2) as workers:
        workers.map(_stay, [(folder,)])


def _stay(folder: Path) -> None:
    (folder / "new").write_text(str(os.getpid()))
    (folder / "new").rename(folder / "pid")
    time.sleep(20)
