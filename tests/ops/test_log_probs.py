"""Log-probabilities by blocks against scipy. M members, N rows, C classes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.special import log_softmax

from distillery.ops import log_probs
from distillery.ops.log_probs import FLOOR, LogProbs, log_softmax_of


def votes(rows: int = 30, classes: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits [4, N, C], some of whose probabilities are below the floor, and labels [N]."""
    generator = np.random.default_rng(0)
    logits = 9 * generator.normal(size=(4, rows, classes))
    return logits.astype(np.float32), generator.integers(0, classes, rows)


@pytest.mark.parametrize("kept", [0, 1 << 30])
def test_blocks_are_the_logarithms_of_softmax(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """reference: scipy's log_softmax above the floor, for some members and for rows in any order, made once or anew."""
    monkeypatch.setattr(log_probs, "KEPT_BYTES", kept)
    logits, labels = votes()
    members, rows = np.array([3, 0]), np.array([5, 5, 29, *range(20)])
    expected = log_softmax(logits.astype(np.float64), axis=-1)
    found = LogProbs.of_logits(logits).of_members(members).at(rows)
    assert found.shape == (2, 23, 4000) and len(list(found.blocks())) > 1
    wanted = expected[members][:, rows]
    assert (wanted < np.log(FLOOR)).any()
    for _ in range(2):
        np.testing.assert_allclose(found.all(), np.maximum(wanted, np.log(FLOOR)), rtol=1e-12)
    np.testing.assert_allclose(found.at_label(labels[rows]), wanted[:, np.arange(23), labels[rows]], rtol=1e-12)


def test_probabilities_are_taken_as_they_are() -> None:
    """reference: the logarithm of an array of probabilities; what is by blocks already stays the same object."""
    probs = np.random.default_rng(0).dirichlet(np.ones(3), (2, 5))
    found = LogProbs.of(probs)
    np.testing.assert_allclose(found.all(), np.log(probs), rtol=1e-12)
    assert LogProbs.of(found) is found


def test_log_softmax_is_scipys() -> None:
    """reference: to the last digit, also of logits that no exponential could hold."""
    logits = np.array([[1e4, 0.0, -3.0], [700.0, 701.0, -1e30]], np.float32)
    assert np.array_equal(log_softmax_of(logits), log_softmax(logits.astype(np.float64), axis=-1))


def test_only_a_block_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """property: of 64 MB of log-probabilities no more than 8 MB are there at once."""
    monkeypatch.setattr(log_probs, "KEPT_BYTES", 1 << 20)
    logits, _ = votes(rows=500)
    tracemalloc.start()
    found = LogProbs.of_logits(logits)
    total = sum(block.sum() for _, block in found.blocks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.isfinite(total) and peak < 8e6
