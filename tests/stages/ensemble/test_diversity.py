"""Figures of diversity against counting. M members, N rows, C classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from distillery.ops.metrics import row_correct, row_nll
from distillery.ops.pooling import pool_logits
from distillery.stages.ensemble import diversity

SEEDS = st.integers(0, 999)
POOL = pytest.mark.parametrize("pool", ["probs", "logits"])


def votes(seed: int, members: int = 4, rows: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits [M, N, 3] of members of different skill, labels [N] and weights [M], one of them zero."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, rows)
    skill = generator.uniform(0, 2, (members, 1, 1))
    weights = generator.dirichlet(np.ones(members))
    weights[1] = 0
    return generator.normal(size=(members, rows, 3)) + skill * np.eye(3)[labels], labels, weights / weights.sum()


def test_pairs_of_right_and_wrong_are_counted() -> None:
    """golden: of ten rows both are right on 4, one alone on 2 and 1, none on 3: Q = (12 - 2) / (12 + 2)."""
    correct = np.array([[1, 1, 1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 1, 0, 0, 0]], float)
    assert diversity.q_statistic(correct)[0, 1] == pytest.approx(10 / 14)
    assert diversity.double_fault(correct)[0, 1] == pytest.approx(0.3)
    # the coefficient of a table of counts: (ad - bc) / √(row and column sums)
    assert diversity.error_correlation(correct)[0, 1] == pytest.approx(10 / np.sqrt(6 * 4 * 5 * 5))


@given(seed=SEEDS)
def test_matrices_are_those_of_plain_loops(seed: int) -> None:
    """reference: disagreement and double fault row by row, error correlation by numpy."""
    logits, labels, _ = votes(seed)
    correct = np.stack([row_correct(z, labels) for z in logits])
    found, both = diversity.disagreement(logits), diversity.double_fault(correct)
    for i in range(4):
        for j in range(4):
            differ = [logits[i, n].argmax() != logits[j, n].argmax() for n in range(40)]
            assert found[i, j] == pytest.approx(np.mean(differ))
            assert both[i, j] == pytest.approx(np.mean([not (correct[i, n] or correct[j, n]) for n in range(40)]))
    np.testing.assert_allclose(diversity.error_correlation(correct), np.corrcoef(correct), atol=1e-12)


@POOL
@given(seed=SEEDS)
def test_the_ensemble_is_never_worse_than_its_members_mean(pool: str, seed: int) -> None:
    """property: ambiguity is at least zero, and it is the mean member's NLL minus the ensemble's."""
    logits, labels, weights = votes(seed)
    found = diversity.ambiguity(logits, labels, weights, pool)
    assert found["ambiguity"] >= -1e-12
    assert found["mean_member_nll"] == pytest.approx(np.dot(weights, found["member_nll"]))
    assert found["ensemble_nll"] == pytest.approx(row_nll(pool_logits(logits, weights, pool), labels).mean())


@POOL
def test_leaving_a_member_out_scales_the_others_up(pool: str) -> None:
    """reference: NLL and accuracy of the pool of the other members; a member of weight zero changes nothing."""
    logits, labels, weights = votes(5)
    changes = diversity.leave_one_out(logits, labels, weights, pool)
    rest = np.delete(weights, 2) / np.delete(weights, 2).sum()
    without, whole = pool_logits(np.delete(logits, 2, axis=0), rest, pool), pool_logits(logits, weights, pool)
    nll = row_nll(without, labels).mean() - row_nll(whole, labels).mean()
    accuracy = row_correct(without, labels).mean() - row_correct(whole, labels).mean()
    assert changes[2] == pytest.approx({"nll": nll, "accuracy": accuracy})
    assert changes[1] == {"nll": 0, "accuracy": 0}


def test_copies_do_not_differ() -> None:
    """golden: copies agree everywhere, err together and gain nothing from each other."""
    logits, labels, _ = votes(1)
    found = diversity.panel(np.stack([logits[0]] * 3), labels, np.full(3, 1 / 3), "probs")
    assert found["mean_disagreement"] == 0 and found["q_statistic"] == 1
    assert found["error_correlation"] == pytest.approx(1) and found["ambiguity"] == pytest.approx(0)
    assert all(abs(change["nll"]) < 1e-12 for change in found["without"])


def test_what_is_not_defined_is_none() -> None:
    """contract: one member has no pairs and cannot be left out; a member without errors has no correlation."""
    logits, labels, _ = votes(2)
    alone = diversity.panel(logits[:1], labels, np.ones(1), "probs")
    names = ("mean_disagreement", "q_statistic", "error_correlation", "double_fault")
    assert [alone[k] for k in names] == [None] * 4 and alone["without"] == [None]
    perfect = np.stack([9 * np.eye(3)[labels], logits[0]])
    found = diversity.panel(perfect, labels, np.array([0.5, 0.5]), "logits")
    assert found["error_correlation"] is None and found["q_statistic"] is None and found["double_fault"] == 0


@POOL
def test_the_panel_is_plain_json(pool: str) -> None:
    """property: to JSON and back is the same tree; logits and log-probabilities give the same figures."""
    logits, labels, weights = votes(3)
    found = diversity.panel(logits, labels, weights, pool)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    again = diversity.panel(log_softmax(logits, axis=-1), labels, weights, pool)
    assert again["ambiguity"] == pytest.approx(found["ambiguity"]) and again["disagreement"] == found["disagreement"]
