"""One teacher trained by two processes, with real ones: equal to one process's, and never a process left behind."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tiny_chain import Chain

from distillery.config.data import Data
from distillery.config.experiment import Recipe, Teacher
from distillery.errors import InputError
from distillery.stages.data import preparation
from distillery.stages.teachers.teacher_training import train_teachers
from distillery.store import Handle, Store
from distillery.training import ranks
from distillery.training.networks import build_network
from distillery.training.torchrun import VARIABLE, wanted

CODE = '''
import os
import time
import torch
from torch import nn


class Net(nn.Module):
    """A network that cannot be stacked; where the environment says so, the second process has memory for seven rows.

    Or else it takes its time, to be killed meanwhile.
    """

    def __init__(self, spec, *, batch_statistics: bool = False):
        super().__init__()
        norm = nn.BatchNorm1d(12) if batch_statistics else nn.LayerNorm(12)
        self.first, self.norm, self.last = nn.Linear(spec.shape[0], 12, bias=False), norm, nn.Linear(12, spec.classes)

    def forward(self, rows):
        if self.training and os.environ.get("RANK") == "1":
            if os.environ.get("FAILS") == "memory" and len(rows) > 7:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            if os.environ.get("FAILS") == "late":
                time.sleep(0.1)
        return self.last(torch.relu(self.norm(self.first(rows))))
'''

ALONE = """
import pickle, sys
from pathlib import Path
from distillery.stages.teachers.teacher_training import train_teachers
args, marker = pickle.loads(Path(sys.argv[1]).read_bytes())
train_teachers(*args, on_epoch=lambda *_: marker.touch())
"""

TABLE = Recipe(epochs=3, batch_size=63, lr=0.01, clip_norm=0.5, augment={"noise": 0.3})
IMAGE = Recipe(epochs=2, batch_size=65, lr=0.01, augment={"shift": 0.1, "brightness": 0.2, "flip": True})
NARROW = {"channels": [2, 4, 4, 8], "stem_width": 4}


@pytest.fixture
def code(tmp_path: Path) -> str:
    """The network in a file of the user's own."""
    (tmp_path / "mine.py").write_text(CODE)
    return f"{tmp_path / 'mine.py'}:Net"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Handle:
    """Small images, few of them for training."""
    split = {"train": 200, "val_ensemble": 101, "val_search": 100}
    config = Data(source="digits", image_size=16, split=split)
    return preparation.prepare(config, preparation.read_source(config), Store(tmp_path_factory.mktemp("digits")))


def children() -> list[psutil.Process]:
    """What this process has started, and they in turn."""
    return psutil.Process().children(recursive=True)


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended; one that has may still wait for somebody to ask how."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(reached: Callable[[], Any], seconds: float = 120) -> None:
    """Waits for something."""
    ends = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < ends
        time.sleep(0.05)


def same(together: Handle, alone: Handle) -> None:
    """Weights, running statistics and every epoch's figures are the same to rounding."""
    found, expected = (load_file(handle.file("model.safetensors")) for handle in (together, alone))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    records = [[{**r, "seconds": 0.0} for r in handle.json("history.json")] for handle in (together, alone)]
    assert records[0] == [pytest.approx(record, rel=1e-4, abs=1e-5) for record in records[1]]
    assert together.fingerprint == alone.fingerprint and together.metrics == pytest.approx(alone.metrics, abs=1e-4)
    files = [sorted(p.name for p in Path(handle.path).iterdir()) for handle in (together, alone)]
    assert files[0] == files[1]


def test_a_killed_process_ends_the_others_and_the_training_can_be_repeated(
    chain: Chain, store: Store, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """resume: teacher, process and signal are named, nothing runs on, and the same call gives one process's weights.

    Also reference: with noise, clipping and unequal halves, the second of them short of memory, so that it goes in
    parts there.
    """

    def kill(*_: object) -> None:
        next(p for p in children() if p.environ().get("RANK") == "1").kill()

    job = (["a"], Teacher(name="x", family=code), TABLE, 3, chain.data)
    (alone,), before = train_teachers(*job, store), children()
    monkeypatch.setenv(VARIABLE, "2")
    monkeypatch.setenv("FAILS", "late")
    other = Store(store.root / "2")
    with pytest.raises(ChildProcessError, match=r"^teacher 'a': rank 1 of 2 failed: Signal 9 \(SIGKILL\)"):
        train_teachers(*job, other, on_epoch=kill)
    assert children() == before
    monkeypatch.setenv("FAILS", "memory")
    seen: list[Any] = []
    (together,) = train_teachers(*job, other, on_epoch=lambda *report: seen.append(report))
    same(together, alone)
    assert seen == [(0, number, record) for number, record in enumerate(together.json("history.json"), 1)]


def test_images_are_augmented_and_normalised_as_in_one_process(
    digits: Handle, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """reference: batch statistics are of the whole batch, with timm's normalisation that has its activation inside,
    running statistics too; images are augmented alike.
    """
    job = (["a"], Teacher(name="x", family="timm", arch="resnet10t", kwargs=NARROW), IMAGE, 3, digits)
    (alone,) = train_teachers(*job, store)
    monkeypatch.setenv(VARIABLE, "2")
    (together,) = train_teachers(*job, Store(store.root / "2"))
    same(together, alone)


def test_an_error_of_one_process_is_the_error(
    chain: Chain, store: Store, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """contract: teacher, process and its last lines; so ends being short of memory where there are batch statistics."""
    monkeypatch.setenv(VARIABLE, "2")
    monkeypatch.setenv("FAILS", "memory")
    teacher, before = Teacher(name="x", family=code, batch_statistics=True), children()
    with pytest.raises(RuntimeError, match=r"^teacher 'a': rank 1 of 2 failed: ") as caught:
        train_teachers(["a"], teacher, TABLE, 3, chain.data, store)
    assert str(caught.value).endswith("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
    assert children() == before


def test_an_interrupted_training_leaves_no_process(
    chain: Chain, store: Store, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """contract: after Ctrl-C, or whatever ends a flow, torchrun and its two have ended when the call returns."""
    seen: list[psutil.Process] = []

    def interrupt(*_: object) -> None:
        seen.extend(process for process in children() if process not in before)
        raise KeyboardInterrupt

    monkeypatch.setenv(VARIABLE, "2")
    long, before = Recipe(epochs=1_000_000), children()
    with pytest.raises(KeyboardInterrupt):
        train_teachers(["a"], Teacher(name="x", family=code), long, 3, chain.data, store, on_epoch=interrupt)
    assert len(seen) == 3 and not any(map(runs, seen))


@pytest.mark.parametrize(("count", "size"), [(63, 2), (65, 4), (4, 4)])
def test_each_row_of_a_batch_is_one_process_s(monkeypatch: pytest.MonkeyPatch, count: int, size: int) -> None:
    """property: the parts of three batches are disjoint, in order, nearly of one size, and all of it."""
    monkeypatch.setattr(ranks, "size", lambda: size)
    parts = []
    for rank in range(size):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        places = ranks.own_places(3 * count, count)
        assert places is not None
        parts.append(places.view(3, -1))
    lengths = [part.shape[1] for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert torch.equal(torch.cat(parts, dim=1), torch.arange(3 * count).view(3, count))
    with pytest.raises(InputError, match=f"^expected a row for each of {size} processes .*, got {size - 1} rows$"):
        ranks.own(size - 1)


def test_no_process_outlives_a_killed_parent(chain: Chain, store: Store, code: str, tmp_path: Path) -> None:
    """contract: SIGKILL of the process that trains ends torchrun and its two, and no file of theirs stays."""
    job, marker = tmp_path / "job", tmp_path / "marker"
    long = Recipe(epochs=1_000_000)
    job.write_bytes(pickle.dumps(((["a"], Teacher(name="x", family=code), long, 3, chain.data, store), marker)))
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, VARIABLE: "2", "TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen([sys.executable, "-c", ALONE, str(job)], env=environment) as parent:
        until(marker.exists)
        started = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert len(started) == 3
    until(lambda: not any(map(runs, started)), 30)
    assert not list((tmp_path / "temporary").glob("distillery-*"))


def test_only_single_large_networks_are_spread(chain: Chain, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: one that cannot be stacked, and only if it was asked for."""
    own, mlp = (
        build_network(Teacher(name="x", **options), chain.dataset.spec, 0)
        for options in ({"family": code}, {"family": "mlp", "hidden": [4]})
    )
    assert not wanted([own])
    monkeypatch.setenv(VARIABLE, "2")
    assert wanted([own]) and not wanted([mlp]) and not wanted([mlp, mlp])
