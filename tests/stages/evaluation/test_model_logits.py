"""Logits of finished models, part by part: those of all rows at once, in less memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tiny_chain import FinishedChain

from distillery.ops import sampling
from distillery.ops.pooling import Pooling
from distillery.stages.evaluation import model_logits
from distillery.stages.logits.logit_cache import ARRAY
from distillery.stages.logits.logit_store import Writer
from distillery.stages.students.student_files import evaluate_on
from distillery.store import Handle


def cached(folder: Path, logits_NC: np.ndarray) -> Handle:
    """A member's cached logits."""
    folder.mkdir()
    array = Writer(folder / ARRAY, (1, *logits_NC.shape), "float32", 512)
    for start in range(0, len(logits_NC), 512):
        array.write(0, start, logits_NC[start : start + 512])
    return Handle("logits", folder.name, str(folder), folder.name)


POOLINGS = [
    Pooling(np.array([0.5, 0.0, 0.5]), "probs"),
    Pooling(np.array([0.2, 0.3, 0.5]), "logits", 1.5),
    Pooling(np.random.default_rng(0).normal(size=(3 * 4 + 1, 4)), "logits", 0.7),
]


@pytest.mark.parametrize("pooling", POOLINGS, ids=["two members", "temperature", "linear map"])
def test_an_ensemble_is_pooled_by_blocks(pooling: Pooling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: the pool of all rows at once."""
    logits_MNC = np.random.default_rng(1).normal(size=(3, 1000, 4)).astype(np.float32)
    members = [cached(tmp_path / f"member-{n}", logits) for n, logits in enumerate(logits_MNC)]
    monkeypatch.setattr(model_logits, "PART_BYTES", 8 * 3 * 4 * 100)
    found = model_logits.ensemble_logits(pooling, members)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pooling.apply(logits_MNC), rtol=1e-5, atol=1e-5)


def test_memory_does_not_grow_with_members_times_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """property: eight members of 8 MB of logits each are pooled with 40 MB, of which 8 are the answer."""
    logits_NC = np.random.default_rng(1).normal(size=(8192, 250)).astype(np.float32)
    members = [cached(tmp_path / f"member-{n}", logits_NC) for n in range(8)]
    monkeypatch.setattr(model_logits, "PART_BYTES", 2 << 20)
    tracemalloc.start()
    model_logits.ensemble_logits(Pooling(np.full(8, 1 / 8), "probs"), members)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6 < 8 * logits_NC.nbytes


def test_a_student_is_asked_part_by_part(finished: FinishedChain, monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: its answers to all rows at once."""
    student = finished.finals[0].students[0]
    expected = evaluate_on(student, finished.dataset, "test")
    monkeypatch.setattr(sampling, "PART_BYTES", 4 * 8 * 70)
    found = model_logits.student_logits(student, finished.dataset, "test", 256)
    np.testing.assert_allclose(found, expected, atol=1e-6)
