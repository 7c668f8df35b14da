"""Jobs on Dask's workers: a real scheduler and real processes, killed ones too, and one that sees another folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_chain import Chain

from distillery.devices import AUTO
from distillery.errors import InputError
from distillery.flows.environment import LOCAL, Places
from distillery.flows.workers.shared_folder import open_workers
from distillery.stages.search.record import SearchResult
from distillery.stages.search.student_search import run_search
from distillery.store import Handle, Store
from distillery.store.remote import Remote

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install -e '.[dask]'")

from distillery.flows.workers import dask_cluster  # noqa: E402 - needs distributed
from distillery.flows.workers.dask_cluster import DaskWork, packed, unpacked  # noqa: E402

HERE = Path(__file__).parent
SEEN = 'mount -t tmpfs none "$0" && exec "$@"'  # in a view of its own, where the owner's folder is empty


@pytest.fixture(scope="module", autouse=True)
def calls() -> Iterator[Any]:
    """The functions, importable here and in the workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.delenv("DISTILLERY_HOME", raising=False)
        import calls

        yield calls


@pytest.fixture(scope="module")
def work(calls: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskWork]:
    """Two workers of a scheduler of their own, on a machine of two GPUs; here there is none."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as opened:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("locks")))
        patch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
        patch.setenv("DISTILLERY_DEVICE", "cuda")
        work = opened.enter_context(DaskWork(LOCAL, 2, Store(tmp_path_factory.mktemp("store"))))
        patch.undo()
        yield work


def test_calls_are_answered_by_dask(work: DaskWork, calls: Any) -> None:
    """contract: results in order, from both workers, epochs on the way, errors as they were raised."""
    assert work.map(calls.add, [(n, 1) for n in range(6)]) == [1, 2, 3, 4, 5, 6]
    reports: list[Any] = []
    told = threading.Event()

    def on_epoch(*report: Any) -> None:
        reports.append(report)
        told.set()

    number = next(work._numbers)
    work._listeners[number] = on_epoch
    assert work._result(work._put((calls.add, (2,), {"b": 5}), number)) == 7
    assert told.wait(10) and reports[0] == (0, 1, {"loss": 2.0})
    assert work.call(calls.add, 2, b=5, on_epoch=on_epoch) == 7
    with pytest.raises(ValueError, match="no such thing"):
        work.call(calls.fail, "no such thing")


def test_each_worker_has_its_share_of_the_machine(work: DaskWork, calls: Any, tmp_path: Path) -> None:
    """contract: a GPU of its own and one thread; it computes on its own device, not on that of who asks."""
    met = work.map(calls.share, [(tmp_path, 2, AUTO)] * 2)
    assert sorted(met) == [("4", "cuda", 1), ("6", "cuda", 1)]


def test_the_job_of_a_killed_worker_is_run_by_another(work: DaskWork, calls: Any, tmp_path: Path) -> None:
    """resume: the answer is the other one's."""
    marker = tmp_path / "marker"
    future = work._put((calls.stay, (marker,), {}), None)
    while not marker.exists():
        time.sleep(0.02)
    os.kill(int(marker.read_text()), signal.SIGKILL)
    assert work._result(future) == "done by another"


def test_a_search_survives_its_workers(work: DaskWork, chain: Chain, tmp_path: Path) -> None:
    """resume: with one of two workers killed half-way the study has the trials that it has in one process."""
    upstream = (chain.config, chain.data, chain.ensemble, chain.taught, chain.profiles)
    alone = run_search(*upstream, Store(tmp_path / "alone"))
    rounds: list[int] = []

    def on_trial(record: dict[str, Any]) -> None:
        if not rounds:
            os.kill(next(iter(work._client.run(os.getpid).values())), signal.SIGKILL)
        rounds.append(record.number)

    found = run_search(*upstream, Store(tmp_path / "dask"), run_many=work.map, on_trial=on_trial)
    mine, theirs = (SearchResult.read(handle).trials for handle in (found, alone))
    assert rounds == list(range(len(theirs)))
    assert [(t.setting, t.nll, t.state) for t in mine] == [(t.setting, t.nll, t.state) for t in theirs]


@pytest.mark.server
def test_a_job_that_kills_its_workers_is_given_up(calls: Any, tmp_path: Path) -> None:
    """contract: the caller gets an error."""
    import dask

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), DaskWork(LOCAL, 1, Store(tmp_path)) as alone:
        with pytest.raises(RuntimeError, match="a job took several Dask workers down"):
            alone.call(calls.die)
        assert alone.call(calls.add, 1, 2) == 3


def _write(work: Path) -> dict[str, Any]:
    (work / "text").write_text("content")
    return {"length": 7}


def test_a_stage_travels_as_its_name(tmp_path: Path) -> None:
    """property: however deep it lies in the arguments, it is fetched, or else found where it is; a store is the
    receiver's own."""
    remote = Remote(f"file://{tmp_path}/remote")
    one, other = Store(tmp_path / "one", remote=remote), Store(tmp_path / "other", remote=remote)
    made = one.stage("part", "n", 1, _write)
    content = packed(({"deep": [made]}, SimpleNamespace(store=one), 1.5))
    given, kept, number = unpacked(content, Store(other.root))
    assert given == {"deep": [made]} and kept.store.root == other.root and number == 1.5
    assert unpacked(content, one)[0] == {"deep": [made]} and not other.root.exists()
    (fetched,) = unpacked(content, other)[0]["deep"]
    assert (
        Path(fetched.path) == other.root / "part" / made.fingerprint and fetched.file("text").read_text() == "content"
    )
    assert (fetched.name, fetched.metrics, fetched.cached) == ("n", {"length": 7}, False)


def test_a_stage_that_is_nowhere_is_named(tmp_path: Path) -> None:
    """contract: without a remote the setting is named; with one it is an error that is tried again."""
    lost = Handle("part", "mine", str(tmp_path / "gone"), "f" * 24)
    with pytest.raises(InputError, match=rf"DISTILLERY_REMOTE: .* does not share the folder {lost.path}, got none"):
        unpacked(packed(lost), Store(tmp_path / "own"))
    with pytest.raises(ConnectionError, match=r"part 'mine': neither on .* nor at file://"):
        unpacked(packed(lost), Store(tmp_path / "own", remote=Remote(f"file://{tmp_path}/remote")))


@contextmanager
def _elsewhere(owner: Path, own: Path) -> Iterator[str]:
    """Address of a scheduler whose one worker does not see the owner's folder."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a folder for one process alone")
    address = own / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file"]
    worker = [*dask, "worker", "--nthreads", "1", "--no-dashboard", "--scheduler-file", str(address)]
    environment = {**os.environ, "DISTILLERY_HOME": str(own)}
    started = [subprocess.Popen([*scheduler, str(address)])]
    try:
        while not address.exists():
            time.sleep(0.1)
        unshared = ["unshare", "-rm", "sh", "-c", SEEN, str(owner)]
        started.append(subprocess.Popen([*unshared, *worker], env=environment, cwd=own))
        yield json.loads(address.read_text())["address"]
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(20)


@pytest.mark.server
def test_a_worker_that_shares_no_folder_works_through_the_remote(calls: Any, tmp_path: Path) -> None:
    """contract: it fetches what a job needs, what it finishes comes here; without a remote it says what is missing."""
    owner, own = tmp_path / "owner", tmp_path / "own"
    owner.mkdir()
    own.mkdir()
    store = Store(owner / ".distillery", remote=Remote(f"file://{tmp_path}/remote"))
    before = Store(store.root).stage("part", "n", 1, _write)
    with _elsewhere(owner, own) as address:
        with (
            DaskWork(address, 0, Store(store.root)) as work,
            pytest.raises(InputError, match=r"DISTILLERY_REMOTE: .*none"),
        ):
            work.call(calls.double, before, store=Store(store.root))
        with DaskWork(address, 0, store) as work:
            made = work.stage(calls.double, before, store=store)
            again = work.stage(calls.double, before, store=store)
    assert made.file("text").read_text() == "contentcontent" and Path(made.path).is_relative_to(store.root)
    assert made.metrics["home"] == str(own) and again.cached
    assert (own / ".distillery" / "part" / before.fingerprint / "text").read_text() == "content"


def test_what_is_wrong_with_dask_is_said_in_one_line(
    work: DaskWork, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """contract: nobody answers, workers of several threads, or nothing is installed."""
    monkeypatch.setattr(dask_cluster, "CONNECT_SECONDS", 1)
    monkeypatch.setenv("DISTILLERY_WORKERS", "dask:tcp://127.0.0.1:1")
    with (
        pytest.raises(InputError, match=r"DISTILLERY_WORKERS: .* answers at 'tcp://127.0.0.1:1', got"),
        open_workers(Places.from_environment()),
    ):
        pass
    with (
        distributed.LocalCluster(1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as wide,
        pytest.raises(
            InputError, match=r"DISTILLERY_WORKERS: expected Dask workers of one thread each .*, got one of 2"
        ),
        DaskWork(wide.scheduler_address, 0, Store(home)),
    ):
        pass
    monkeypatch.setitem(sys.modules, "distillery.flows.workers.dask_cluster", None)
    with pytest.raises(InputError, match=r"DISTILLERY_WORKERS: expected distillery\[dask\] to be installed"):
        open_workers(Places.from_environment())
