"""Stage `ensemble`: how the members are pooled, chosen by cross-fitting on val_ensemble.

M members, N rows, C classes.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from distillery import diversity, pruning
from distillery.config import Ensemble, Weighting
from distillery.crossfit import ROUNDING, Candidate, Judged, Votes, assess, fits, gain, judge
from distillery.dataset import Dataset
from distillery.errors import InputError
from distillery.logit_store import ahead
from distillery.logits import read_logits, reader_of
from distillery.memory import resident_bytes
from distillery.metrics import quality, row_nll
from distillery.pooling import Pooling, influence, pool_logits
from distillery.store import Handle, Store, write_json
from distillery.weightings import WEIGHTINGS

__all__ = ["active", "candidates", "choose", "chosen", "label", "optimize_weights", "pool_logits", "teacher_logits"]

VERSION = 3
BLOCK_BYTES = 32 << 20  # of members' log-probabilities that are pooled at once, so that memory knows no rows or views
NEEDS_ALL = "stacking needs every member"
SELECTED = "NLL of cross-fitted weights; the temperature and the members are chosen on the rows that judge them"
DEFAULT = ("uniform", "convex", "greedy", "stacking")


def candidates(config: Ensemble, members: int, classes: int, rows: int) -> tuple[list[Candidate], dict[str, int]]:
    """(what is tried, rows that a weighting left out would have needed).

    Raises:
        InputError: A weighting that the config names needs more rows. One that is only tried by default is left out.
    """
    named = config.weightings is not None
    found, left_out = [], {}
    for place, weighting in enumerate(config.weightings or [Weighting(name=name) for name in DEFAULT]):
        traits = WEIGHTINGS.traits(weighting.name)
        least = traits["min_rows"](members, classes) if "min_rows" in traits else 0
        if rows < least and named:
            raise InputError(
                f"ensemble.weightings.{place} ({weighting.name}): expected at least {least} rows in val_ensemble for "
                f"{members} members and {classes} classes, got {rows}; a larger data.split.val_ensemble or another "
                "weighting would do"
            )
        if rows < least:
            left_out[weighting.name] = least
        elif not traits.get("stacks"):
            found += [Candidate(weighting, pool) for pool in config.pools]
        elif named or "logits" in config.pools:  # a linear map is on log-probabilities, whatever the pools
            found.append(Candidate(weighting, "logits"))
    return found, left_out


def optimize_weights(
    members: list[Handle], val_logits: list[Handle], data: Handle, config: Ensemble, store: Store
) -> Handle:
    """``ensemble.json``: the table of every weighting and pool, and the one that is used, with the reason.

    Each candidate is judged by its NLL on rows of val_ensemble that its weights, and its temperature where that pays,
    were not fitted on (K folds). Uniform weights with probability pooling stay unless others are better beyond chance,
    their gain's lower bound, from a paired bootstrap, above zero; of those the one with the lowest NLL is used. Beside
    it stand the members' diversity and what pruning would do or has done; with stacking ``pruning`` is null.

    Raises:
        InputError: A weighting that the config names needs more rows.
    """
    rows = Dataset(data).digest("val_ensemble")
    key = [VERSION, config, [m.fingerprint for m in members], [h.fingerprint for h in val_logits], rows]

    def build(work: Path) -> dict[str, Any]:
        logits_MNC = np.stack([read_logits(h) for h in val_logits])
        content = choose(logits_MNC, Dataset(data).labels("val_ensemble"), config, [m.name for m in members])
        write_json(work / "ensemble.json", content)
        return {k: content["table"][content["chosen"]][k] for k in ("nll", "accuracy")}

    return store.stage("ensemble", "ensemble", key, build)


def choose(logits_MNC: np.ndarray, labels_N: np.ndarray, config: Ensemble, names: list[str]) -> dict[str, Any]:
    """The content of ``ensemble.json``."""
    votes = Votes.dealt(logits_MNC, labels_N, config.folds)
    tried, left_out = candidates(config, len(logits_MNC), logits_MNC.shape[2], len(labels_N))
    judged = [judge(c, votes, np.arange(len(names))) for c in tried]
    used, reason = _pick(tried, judged, labels_N)
    standing = judged[_reference(tried)]
    pruned = None if tried[used].stacks else _prune(tried[used], judged[used], votes, config.prune_tolerance)
    if pruned is not None and config.prune and len(pruned.part.kept) < len(names):
        kept = pruned.part.kept
        judged[used] = assess(tried[used].pool, votes.of(kept), kept, pruned.part.weights, pruned.part.fold_weights)
        reason += f"; {len(kept)} of {len(names)} members kept"
    if judged[used].temperature != 1:
        reason += f"; temperature {judged[used].temperature:.2f} after pooling"
    table = _table(tried, judged, standing, labels_N, len(names))
    if tried[used].stacks:
        table[used]["coefficients"] = judged[used].weights.tolist()
    return {
        "members": names,
        "table": table,
        "chosen": used,
        "reason": reason,
        "left_out": left_out,
        "diversity": _diversity(votes, tried[used], table[used]),
        "pruning": None if pruned is None else _told(pruned, names, config.prune),
        "pruning_note": NEEDS_ALL if pruned is None else SELECTED,
    }


def _reference(tried: list[Candidate]) -> int:
    names = [(c.weighting.name, c.pool) for c in tried]
    return names.index(("uniform", "probs")) if ("uniform", "probs") in names else 0


def _pick(tried: list[Candidate], judged: list[Judged], labels_N: np.ndarray) -> tuple[int, str]:
    """(position of the candidate to use, why): the lowest NLL among those that are better beyond chance."""
    reference = _reference(tried)
    nll = [row_nll(j.pooled_NC, labels_N).mean() for j in judged]
    gains = [gain(judged[reference], j, labels_N, len(tried)) for j in judged]
    better = [i for i, (_, bound, _) in enumerate(gains) if bound > ROUNDING and nll[i] < nll[reference]]
    standing = tried[reference].name
    if better:
        best = min(better, key=lambda i: nll[i])
        lower, bound, _ = gains[best]
        return best, f"{tried[best].name}: NLL lower by {lower:.4f} than {standing} (at least {bound:.4f})"
    best = int(np.argmin(nll))
    if nll[best] >= nll[reference] - ROUNDING:
        return reference, f"{standing}: lowest cross-fitted NLL"
    lower, bound, _ = gains[best]
    return (
        reference,
        f"{standing}: {tried[best].name} is lower by {lower:.4f}, which may be chance (lower bound {bound:.4f})",
    )


def _table(
    tried: list[Candidate], judged: list[Judged], standing: Judged, labels_N: np.ndarray, members: int
) -> list[dict[str, Any]]:
    rows = []
    for candidate, result in zip(tried, judged, strict=True):
        weights = np.zeros(members)
        weights[result.members] = influence(result.weights) if candidate.stacks else result.weights
        lower, low, high = gain(standing, result, labels_N, len(tried))
        rows.append(
            {
                "weighting": candidate.weighting.name,
                "pool": candidate.pool,
                "weights": weights.tolist(),
                **quality(result.pooled_NC, labels_N),
                "temperature": result.temperature,
                "nll_plain": float(row_nll(result.plain_NC, labels_N).mean()),
                "nll_calibrated": float(row_nll(result.calibrated_NC, labels_N).mean()),
                "nll_gain": lower,
                "nll_gain_low": low,
                "nll_gain_high": high,
            }
        )
    return rows


def _prune(candidate: Candidate, judged: Judged, votes: Votes, tolerance: float) -> pruning.Pruned:
    def fit(members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if len(members) == len(votes.logits_MNC):
            return judged.weights, judged.fold_weights
        return fits(candidate, votes.of(members))

    parts = (votes.logits_MNC, votes.labels_N, votes.folds_N, candidate.pool)
    return pruning.prune(pruning.Judge(*parts, calibrated=judged.temperature != 1), fit, tolerance=tolerance)


def _told(pruned: pruning.Pruned, names: list[str], applied: bool) -> dict[str, Any]:
    kept = [names[i] for i in pruned.part.kept]
    return {
        "applied": applied,
        "kept": kept,
        "dropped": [name for name in names if name not in kept],
        "nll_before": pruned.nll_before,
        "nll_after": pruned.nll_after,
        "nll_loss": pruned.nll_after - pruned.nll_before,
        "nll_loss_high": pruned.loss_high,
        "cost_saved": 1 - len(kept) / len(names),
    }


def _diversity(votes: Votes, candidate: Candidate, row: dict[str, Any]) -> dict[str, Any]:
    """The panel of the ensemble in use; of the plain mean beside stacking, which has no weights to scale up."""
    weights_M = np.array(row["weights"])
    if candidate.stacks:
        candidate, weights_M = (
            Candidate(Weighting(name="uniform"), "probs"),
            np.full(len(weights_M), 1 / len(weights_M)),
        )
    return {"pooling": candidate.name, **diversity.panel(votes.logits_MNC, votes.labels_N, weights_M, candidate.pool)}


def chosen(ensemble: Handle) -> Pooling:
    """The ensemble in use."""
    content = ensemble.json("ensemble.json")
    row = content["table"][content["chosen"]]
    return Pooling(np.array(row.get("coefficients", row["weights"])), row["pool"], row["temperature"])


def active(ensemble: Handle) -> list[str]:
    """Names of the members that count, in their order: those with weight; all of them beside stacking."""
    names = ensemble.json("ensemble.json")["members"]
    return [names[i] for i in chosen(ensemble).active]


def label(ensemble: Handle) -> str:
    """What the ensemble in use is called in tables, for instance ``convex-probs``."""
    content = ensemble.json("ensemble.json")
    row = content["table"][content["chosen"]]
    name = f"{row['weighting']}-{row['pool']}"
    if content["pruning"] and content["pruning"]["applied"] and content["pruning"]["dropped"]:
        return f"{name}-pruned"
    return "chosen (uniform)" if name == "uniform-probs" else name


def teacher_logits(ensemble: Handle, member_logits: list[Handle]) -> np.ndarray:
    """Logits float32 [N, C] of the ensemble on the split that `member_logits` cover, after the adopted temperature.

    Where they would take more than `memory.resident_bytes`, they lie in a file that is gone with the process.

    Args:
        ensemble: Stage `ensemble`.
        member_logits: Of the active members, in the members' order, or of all members; read by blocks of rows, the next
            one while this one is pooled.
    """
    pooling, names = chosen(ensemble), ensemble.json("ensemble.json")["members"]
    if len(member_logits) == len(names):
        member_logits = [member_logits[i] for i in pooling.active]
    assert len(member_logits) == len(pooling.active), f"expected logits of {', '.join(active(ensemble))}"
    readers, narrowed = [reader_of(h) for h in member_logits], pooling.narrowed()
    first = readers[0]
    pooled = _room((first.views, first.rows, first.classes), Path(ensemble.path).parent)
    for view, start, block in ahead(readers, max(1, BLOCK_BYTES // (len(readers) * first.classes * 8))):
        pooled[view, start : start + block.shape[1]] = narrowed.apply(block)
    return pooled.reshape(-1, first.classes)


def _room(shape: tuple[int, ...], folder: Path) -> np.ndarray:
    if 4 * math.prod(shape) <= resident_bytes():
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(dir=folder) as stream:
        return np.memmap(stream, np.float32, shape=shape)
