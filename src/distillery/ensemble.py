"""Stage `ensemble`: how the members are pooled, chosen by cross-fitting on val_ensemble.

M members, N rows, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp, softmax

from distillery.config import Ensemble
from distillery.dataset import Dataset
from distillery.logits import read_logits
from distillery.metrics import paired_difference, quality, row_nll
from distillery.store import Handle, Store, write_json
from distillery.weightings import WEIGHTINGS

VERSION = 1


def pool_logits(logits_MNC: np.ndarray, weights_M: np.ndarray, pool: str) -> np.ndarray:
    """Logits [N, C] of the ensemble at T = 1.

    ``probs``: ``log Σ_m w_m softmax(z_m)``. ``logits``: ``Σ_m w_m log softmax(z_m)``, the normalised geometric mean up
    to a constant per row. Members of weight zero do not count.
    """
    active = np.flatnonzero(weights_M > 0)
    logs_MNC = log_softmax(logits_MNC[active].astype(np.float64), axis=-1)
    weights = weights_M[active][:, None, None]
    if pool == "probs":
        return np.asarray(logsumexp(logs_MNC, b=weights, axis=0))
    return np.asarray((weights * logs_MNC).sum(0))


def optimize_weights(
    members: list[Handle], val_logits: list[Handle], data: Handle, config: Ensemble, store: Store
) -> Handle:
    """``ensemble.json``: the table of every weighting and pool, and the one that is used, with the reason.

    Each candidate is judged by its NLL on rows of val_ensemble that its weights were not fitted on (K folds). Uniform
    weights with probability pooling stay unless another one is better beyond chance: its gain's lower bound, from a
    paired bootstrap, must be above zero.
    """
    key = [VERSION, config, [m.fingerprint for m in members], [h.fingerprint for h in val_logits], data.fingerprint]

    def build(work: Path) -> dict[str, Any]:
        logits_MNC = np.stack([read_logits(h) for h in val_logits])
        labels_N = Dataset(data).labels("val_ensemble")
        table, chosen, reason = choose(logits_MNC, labels_N, config)
        write_json(
            work / "ensemble.json",
            {"members": [m.name for m in members], "table": table, "chosen": chosen, "reason": reason},
        )
        return {k: table[chosen][k] for k in ("nll", "accuracy")}

    return store.stage("ensemble", "ensemble", key, build)


def choose(logits_MNC: np.ndarray, labels_N: np.ndarray, config: Ensemble) -> tuple[list[dict[str, Any]], int, str]:
    """(a row per candidate, index of the one to use, why)."""
    probs_MNC = softmax(logits_MNC.astype(np.float64), axis=-1)
    folds = _folds(labels_N, config.folds)
    table, losses = [], []
    for weighting in config.weightings:
        for pool in config.pools:
            function = WEIGHTINGS[weighting.name]
            pooled = np.empty(probs_MNC.shape[1:])
            for fold in range(config.folds):
                fit_on, judge_on = folds != fold, folds == fold
                weights = function(probs_MNC[:, fit_on], labels_N[fit_on], pool, **weighting.options)
                pooled[judge_on] = pool_logits(logits_MNC[:, judge_on], weights, pool)
            weights = function(probs_MNC, labels_N, pool, **weighting.options)
            losses.append(row_nll(pooled, labels_N))
            table.append(
                {"weighting": weighting.name, "pool": pool, "weights": weights.tolist(), **quality(pooled, labels_N)}
            )
    reference = next((i for i, row in enumerate(table) if row["weighting"] == "uniform" and row["pool"] == "probs"), 0)
    best = int(np.argmin([row["nll"] for row in table]))
    for row, loss in zip(table, losses, strict=True):
        gain = paired_difference(losses[reference], loss, resamples=2000, confidence=0.95)
        row["nll_gain"], row["nll_gain_low"], row["nll_gain_high"] = gain.value, gain.low, gain.high
    names = [f"{row['weighting']} weights, {row['pool']} pool" for row in table]
    if best == reference or table[best]["nll_gain_low"] > 0:
        return table, best, f"{names[best]}: lowest cross-fitted NLL"
    reason = f"{names[reference]}: {names[best]} is lower by {table[best]['nll_gain']:.4f}, which may be chance"
    return table, reference, reason


def _folds(labels_N: np.ndarray, n_folds: int) -> np.ndarray:
    """A fold for each row [N]; classes are dealt out evenly, in row order, so that the folds never change."""
    folds = np.empty(len(labels_N), np.int64)
    folds[np.argsort(labels_N, kind="stable")] = np.arange(len(labels_N)) % n_folds
    return folds


def chosen(ensemble: Handle) -> tuple[np.ndarray, str]:
    """(weights [M], pool) of the ensemble in use."""
    content = ensemble.json("ensemble.json")
    row = content["table"][content["chosen"]]
    return np.array(row["weights"]), row["pool"]


def label(ensemble: Handle) -> str:
    """What the ensemble in use is called in tables, for instance ``convex-probs``."""
    content = ensemble.json("ensemble.json")
    row = content["table"][content["chosen"]]
    name = f"{row['weighting']}-{row['pool']}"
    return "chosen (uniform)" if name == "uniform-probs" else name


def teacher_logits(ensemble: Handle, member_logits: list[Handle]) -> np.ndarray:
    """Logits float32 [N, C] of the ensemble on the split that `member_logits` (one per member) cover."""
    weights, pool = chosen(ensemble)
    return pool_logits(np.stack([read_logits(h) for h in member_logits]), weights, pool).astype(np.float32)
