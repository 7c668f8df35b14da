"""The queue of a shared folder: with real workers, killed ones too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_chain import Chain

from distillery.devices import AUTO
from distillery.flows.workers import jobs
from distillery.flows.workers.shared_folder import SharedWork
from distillery.stages.search.record import SearchResult
from distillery.stages.search.student_search import run_search
from distillery.store import Store

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The functions, importable here and in the workers."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    import calls

    return calls


@contextmanager
def workers(store: Path, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that work for whoever opens a folder below the store."""
    command = [sys.executable, "-c", "import sys; from pathlib import Path; from distillery.flows.workers import jobs\n"
               "jobs.work_anywhere(Path(sys.argv[1]))", str(store / "work")]  # fmt: skip
    started = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def until(seen: Callable[[], Any]) -> Any:
    """What a function gives once it gives something."""
    while not (found := seen()):
        time.sleep(0.02)
    return found


def test_calls_are_answered_by_other_processes(tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: results in order, reports on the way, errors as they were raised; nothing is left behind. Each worker
    has a GPU of its own, and computes on the device of its own environment, not on that of who asks."""
    reports: list[Any] = []
    (tmp_path / "seen").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "seen"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setenv("DISTILLERY_DEVICE", "cuda")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with workers(tmp_path, 2), SharedWork(0, tmp_path) as shared:
        monkeypatch.setenv("DISTILLERY_DEVICE", "cpu")
        (tmp_path / "met").mkdir()
        met = shared.map(calls.share, [(tmp_path / "met", 2, AUTO)] * 2)
        assert sorted(met) == [("4", "cuda", 1), ("6", "cuda", 1)]
        assert shared.map(calls.add, [(n, 1) for n in range(6)]) == [1, 2, 3, 4, 5, 6]
        assert shared.call(calls.add, 2, b=5, on_epoch=lambda *report: reports.append(report)) == 7
        with pytest.raises(ValueError, match="no such thing"):
            shared.call(calls.fail, "no such thing")
        assert not list(shared.folder.glob("*.job"))
    assert reports == [(0, 1, {"loss": 2.0}), (0, 2, {"loss": 1.0})]
    assert not list((tmp_path / "work").iterdir())


def test_the_job_of_a_killed_worker_is_run_by_another(tmp_path: Path, calls: Any) -> None:
    """resume: the kernel drops the dead worker's lock; the answer is the other one's."""
    marker = tmp_path / "marker"
    with jobs.owned(tmp_path / "work" / "one") as folder, workers(tmp_path, 2) as started:
        job = jobs.put(folder, 0, (calls.stay, (marker,), {}))
        victim = int(until(lambda: marker.exists() and marker.read_text()))
        assert victim in [process.pid for process in started] and jobs.result_of(job) is None
        os.kill(victim, signal.SIGKILL)
        assert until(lambda: jobs.result_of(job)) == ("done by another", None)


def test_a_job_that_kills_its_workers_is_given_up(tmp_path: Path, calls: Any) -> None:
    """contract: after so many tries the caller gets an error, and other jobs are still done."""
    with jobs.owned(tmp_path / "work" / "one") as folder:
        deadly, harmless = (
            jobs.put(folder, n, (f, a, {})) for n, (f, a) in enumerate([(calls.die, ()), (calls.add, (1, 2))])
        )
        for _ in range(jobs.TRIES):
            with workers(tmp_path, 1) as (process,):
                assert process.wait() == 9
        with workers(tmp_path, 1):
            assert until(lambda: jobs.result_of(harmless)) == (3, None)
            _, error = until(lambda: jobs.result_of(deadly))
    assert "took 3 workers down" in str(error)


def test_work_ends_with_its_owner(tmp_path: Path) -> None:
    """contract: also with one that was killed; the next run clears what it left."""
    folder = tmp_path / "work" / "one"
    owner = subprocess.Popen(
        [sys.executable, "-c", "import sys, time; from pathlib import Path; from distillery.flows.workers import jobs\n"
         "with jobs.owned(Path(sys.argv[1])): time.sleep(1000)", str(folder)]
    )  # fmt: skip
    until(lambda: jobs.is_open(folder))
    owner.kill()
    owner.wait()
    assert jobs.work(folder) == 0 and folder.exists()
    with SharedWork(0, tmp_path) as shared:
        assert shared.folder.exists() and not folder.exists()
        assert jobs.is_open(shared.folder)
    assert not jobs.is_open(shared.folder)


def test_all_runs_are_served_in_turn(tmp_path: Path, calls: Any) -> None:
    """property: an open run without a job keeps nobody waiting, and one with many does not keep the others waiting."""
    root = tmp_path / "work"
    idle, many, few, ended = (root / name for name in ("a", "b", "c", "d"))
    with jobs.owned(ended):
        left = jobs.put(ended, 0, (calls.add, (0, 0), {}))
    with jobs.owned(idle), jobs.owned(many), jobs.owned(few):
        of_many = [jobs.put(many, number, (calls.add, (number, 1), {})) for number in range(3)]
        of_few = jobs.put(few, 0, (calls.add, (5, 5), {}))
        assert jobs.turn(root) == 2
        assert jobs.result_of(of_few) == (10, None) and jobs.result_of(of_many[0]) == (1, None)
        assert jobs.result_of(of_many[1]) is None
        assert [jobs.turn(root) for _ in range(3)] == [1, 1, 0]
        assert [jobs.result_of(job) for job in of_many] == [(1, None), (2, None), (3, None)]
    assert jobs.turn(root) == 0 and jobs.result_of(left) is None


def test_a_search_survives_its_workers(chain: Chain, search_with: Any, tmp_path: Path) -> None:
    """resume: with one of two workers killed half-way the study has the trials that it has in one process."""
    upstream = (chain.config, chain.data, chain.ensemble, chain.taught, chain.profiles)
    alone = run_search(*upstream, Store(tmp_path / "alone"))
    rounds: list[int] = []

    def on_trial(record: dict[str, Any]) -> None:
        if not rounds:
            started[0].kill()  # whatever it is doing
        rounds.append(record.number)

    with workers(tmp_path, 2) as started, SharedWork(0, tmp_path) as shared:
        found = run_search(*upstream, Store(tmp_path / "shared"), run_many=shared.map, on_trial=on_trial)
    mine, theirs = (SearchResult.read(handle).trials for handle in (found, alone))
    assert rounds == list(range(len(theirs)))
    assert [(t.setting, t.nll, t.state) for t in mine] == [(t.setting, t.nll, t.state) for t in theirs]
