"""The pool of processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.places import visible_gpus
from flows.workers import Workers


def test_workers_share_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: each process sees one GPU of its own, in turn; without GPUs nothing is changed."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert visible_gpus("cuda") == ["4", "6"] and visible_gpus("cpu") == visible_gpus("cuda:1") == []
    with Workers(2, visible_gpus("cuda")) as workers:
        seen = workers.map(_seen_together, [(tmp_path, 2), (tmp_path, 2)])
    assert sorted(seen) == ["4", "6"]
    with Workers(2) as workers:
        assert workers.map(_seen_together, [(tmp_path, 1)]) == ["4,6"]


def _seen_together(folder: Path, others: int) -> str:
    """What this process sees, once so many have come here."""
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < others:
        pass
    return os.environ["CUDA_VISIBLE_DEVICES"]
