"""Stage `ensemble`: pooling against plain loops, and the choice among the candidates."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from distillery import metrics
from distillery.config import Ensemble, Weighting
from distillery.ensemble import choose, chosen, label, optimize_weights, pool_logits, teacher_logits
from distillery.logits import read_logits
from distillery.store import Store

CONFIG = Ensemble()


def votes(seed: int, skill: tuple[float, ...] = (1.0, 0.5, 0.8), rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Logits [M, N, 3] of members whose signal is as strong as `skill` says, and labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, rows)
    signal = np.array(skill)[:, None, None] * np.eye(3)[labels]
    return (signal + generator.normal(size=signal.shape)).astype(np.float32), labels


def pooled_by_loops(logits: np.ndarray, weights: np.ndarray, pool: str) -> np.ndarray:
    """Probabilities of the ensemble, one cell at a time."""
    result = np.zeros(logits.shape[1:])
    for row in range(logits.shape[1]):
        for member, weight in enumerate(weights):
            probs = np.exp(logits[member, row]) / np.exp(logits[member, row]).sum()
            result[row] += weight * (probs if pool == "probs" else np.log(probs))
        if pool == "logits":
            result[row] = np.exp(result[row]) / np.exp(result[row]).sum()
    return result


@pytest.mark.parametrize("pool", ["probs", "logits"])
@given(seed=st.integers(0, 999))
def test_pools_are_means(pool: str, seed: int) -> None:
    """reference: the weighted mean of probabilities, or of log-probabilities made to sum to one, by loops."""
    logits, _ = votes(seed, rows=10)
    weights = np.random.default_rng(seed).dirichlet([1, 1, 1])
    found = softmax(pool_logits(logits, weights, pool), axis=-1)
    np.testing.assert_allclose(found, pooled_by_loops(logits.astype(np.float64), weights, pool), atol=1e-12)


@pytest.mark.parametrize("pool", ["probs", "logits"])
def test_members_of_weight_zero_do_not_count(pool: str) -> None:
    """property: not even where their logits are no numbers; the probability pool's logits are log-probabilities."""
    logits, _ = votes(0)
    expected = pool_logits(logits[:2], np.array([0.3, 0.7]), pool)
    logits[2] = np.nan
    assert np.array_equal(pool_logits(logits, np.array([0.3, 0.7, 0.0]), pool), expected)
    if pool == "probs":
        np.testing.assert_allclose(np.exp(expected).sum(-1), 1)


def test_copies_of_one_member_stay_uniform() -> None:
    """golden: where no weighting can win, uniform weights with probability pooling stay."""
    logits, labels = votes(1)
    table, used, reason = choose(np.stack([logits[0]] * 4), labels, CONFIG)
    assert (table[used]["weighting"], table[used]["pool"]) == ("uniform", "probs")
    assert table[used]["weights"] == [0.25] * 4 and "uniform weights, probs pool" in reason


def test_a_gain_that_may_be_chance_is_not_taken() -> None:
    """property: another candidate is used only if it is the best and the lower bound of its gain is above zero."""
    used_others = 0
    for seed in range(8):
        logits, labels = votes(seed, rows=60)
        table, used, reason = choose(logits, labels, CONFIG)
        best = min(range(len(table)), key=lambda i: table[i]["nll"])
        taken = table[best]["nll_gain_low"] > 0
        assert used == (best if taken or best == 0 else 0)
        assert ("may be chance" in reason) == (best != 0 and not taken)
        used_others += used != 0
    assert 0 < used_others < 8


def test_a_useless_member_is_weighed_down() -> None:
    """golden: beside noise that is sure of itself, uniform weights lose beyond chance."""
    logits, labels = votes(3, skill=(2.0, 2.0, 0.0))
    logits[2] *= 5
    table, used, _ = choose(logits, labels, CONFIG)
    assert table[used]["weighting"] != "uniform" and table[used]["weights"][2] < 0.1
    assert table[used]["nll_gain_low"] > 0


def test_every_candidate_is_judged_on_rows_it_was_not_fitted_on(chain: SimpleNamespace) -> None:
    """reference: uniform weights need no fitting, so their row is the quality of the plain mean on all rows."""
    logits = np.stack([read_logits(h) for h in chain.logits["val_ensemble"]])
    labels = chain.dataset.labels("val_ensemble")
    table = chain.ensemble.json("ensemble.json")["table"]
    assert [(r["weighting"], r["pool"]) for r in table] == [
        (w, p) for w in ("uniform", "convex", "greedy") for p in ("probs", "logits")
    ]
    for row in table[:2]:
        expected = metrics.quality(pool_logits(logits, np.full(3, 1 / 3), row["pool"]), labels)
        assert {k: row[k] for k in expected} == pytest.approx(expected)
    assert all(np.isclose(sum(r["weights"]), 1) for r in table)
    gains = [r["nll_gain"] for r in table]
    assert gains == pytest.approx([table[0]["nll"] - r["nll"] for r in table])


def test_what_the_chain_goes_on_with(chain: SimpleNamespace) -> None:
    """reference: weights, pool and targets of later stages are those of the chosen row."""
    content = chain.ensemble.json("ensemble.json")
    row = content["table"][content["chosen"]]
    weights, pool = chosen(chain.ensemble)
    assert content["members"] == ["mlp-00", "mlp-01", "mlp-02"]
    assert (weights.tolist(), pool) == (row["weights"], row["pool"])
    stacked = np.stack([read_logits(h) for h in chain.logits["train"]])
    found = teacher_logits(chain.ensemble, chain.logits["train"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pool_logits(stacked, weights, pool), rtol=1e-6)


def test_candidates_are_the_configs(chain: SimpleNamespace, store: Store) -> None:
    """contract: only what the config lists is tried; one more member or weighting is another result."""
    on_val = chain.logits["val_ensemble"]
    alone = Ensemble(weightings=(Weighting(name="uniform"),), pools=("probs",))
    handle = optimize_weights(chain.members, on_val, chain.data, alone, store)
    assert len(handle.json("ensemble.json")["table"]) == 1 and label(handle) == "chosen (uniform)"
    assert chosen(handle)[0].tolist() == [1 / 3] * 3
    fewer = optimize_weights(chain.members[:2], on_val[:2], chain.data, alone, store)
    assert fewer.fingerprint != handle.fingerprint
    only_convex = Ensemble(weightings=(Weighting(name="convex", shrinkage=0),), pools=("logits",))
    assert label(optimize_weights(chain.members, on_val, chain.data, only_convex, store)) == "convex-logits"
