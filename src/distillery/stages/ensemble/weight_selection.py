"""Stage `ensemble`: how the members are pooled, chosen by cross-fitting on val_ensemble.

M members, N rows, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillery.config.experiment import Ensemble, Weighting
from distillery.memory import room
from distillery.ops.pooling import Pooling, influence, pool_logits
from distillery.stages.data.dataset import Dataset
from distillery.stages.ensemble import diversity, pruning
from distillery.stages.ensemble.candidates import candidates, duration, takes_long, too_long
from distillery.stages.ensemble.crossfit import ROUNDING, Candidate, Judged, Votes, assess, fits, gain, judge
from distillery.stages.ensemble.member_notes import member_notes
from distillery.stages.ensemble.record import CandidateRow, Diversity, EnsembleChoice, Pruning
from distillery.stages.logits.logit_cache import reader_of
from distillery.stages.logits.logit_store import ahead
from distillery.store import Handle, Store

__all__ = ["active", "candidates", "choose", "chosen", "label", "optimize_weights", "pool_logits", "teacher_logits"]

log = logging.getLogger(__name__)

VERSION = 6
BLOCK_BYTES = 32 << 20  # of members' log-probabilities that are pooled at once, so that memory knows no rows or views
NEEDS_ALL = "stacking needs every member"
SELECTED = "NLL of cross-fitted weights; the temperature and the members are chosen on the rows that judge them"


def optimize_weights(
    members: list[Handle], val_logits: list[Handle], data: Handle, config: Ensemble, store: Store
) -> Handle:
    """``ensemble.json``: the table of every weighting and pool, and the one that is used, with the reason.

    Each candidate is judged by its NLL on rows of val_ensemble that its weights, and its temperature where that pays,
    were not fitted on (K folds). Uniform weights with probability pooling stay unless others are better by more than
    one standard error, over paired rows; of those the one with the lowest NLL is used. Beside
    it stand the members' diversity and what pruning would do or has done; with stacking ``pruning`` is null.

    Raises:
        InputError: A weighting that the config names needs more rows.
    """
    rows = Dataset(data).digest("val_ensemble")
    key = [VERSION, config, [m.fingerprint for m in members], [h.fingerprint for h in val_logits], rows]

    def build(work: Path) -> dict[str, Any]:
        dataset = Dataset(data)
        logits_MNC = gathered(val_logits, work.parent)
        labels_N = dataset.labels("val_ensemble")
        by_folds = dataset.folds is not None
        found = choose(logits_MNC, labels_N, config, [m.name for m in members], work.parent, by_folds=by_folds)
        found = found.model_copy(update={"notes": member_notes(members, dataset)})
        found.write(work)
        return {"nll": found.used.nll, "accuracy": found.used.accuracy}

    return store.stage("ensemble", "ensemble", key, build)


def gathered(logits: Sequence[Handle], folder: Path | None = None) -> np.ndarray:
    """Raw logits float32 [M, N, C] of members on one split; in a file where they are more than fits into memory."""
    readers = [reader_of(handle) for handle in logits]
    first = readers[0]
    logits_MNC = room((len(readers), first.rows, first.classes), np.float32, folder)
    for place, reader in enumerate(readers):
        for start in range(0, first.rows, first.chunk_rows):
            stop = min(start + first.chunk_rows, first.rows)
            logits_MNC[place, start:stop] = reader.rows_of(0, start, stop)
    return logits_MNC


def choose(
    logits_MNC: np.ndarray,
    labels_N: np.ndarray,
    config: Ensemble,
    names: list[str],
    folder: Path | None = None,
    *,
    by_folds: bool = False,
) -> EnsembleChoice:
    """The choice among all candidates, still without notes on the members.

    Args:
        logits_MNC: The members' logits, perhaps a file's: they are read by blocks of rows.
        labels_N: The labels.
        config: What is tried.
        names: Of the members.
        folder: Where what does not fit into memory may lie; None for the system's folder of temporary files.
        by_folds: Whether the logits are those of one model for each fold.
    """
    votes = Votes.dealt(logits_MNC, labels_N, config.folds, folder)
    tried, left_out = candidates(config, *votes.log_probs.shape[::2], len(labels_N), folds=by_folds)
    judged = [_judge(candidate, votes, config.folds) for candidate in tried]
    used, reason = _pick(tried, judged)
    standing = judged[_reference(tried)]
    pruned, note = _prune(tried[used], judged[used], votes, config)
    if pruned is not None and config.prune and len(pruned.part.kept) < len(names):
        kept = pruned.part.kept
        judged[used] = assess(tried[used].pool, votes.of(kept), pruned.part.weights, pruned.part.fold_weights)
        reason += f"; {len(kept)} of {len(names)} members kept"
    if judged[used].temperature != 1:
        reason += f"; temperature {judged[used].temperature:.2f} after pooling"
    table = _table(tried, judged, standing, len(names))
    if tried[used].stacks:
        table[used] = table[used].model_copy(update={"coefficients": judged[used].weights.tolist()})
    return EnsembleChoice(
        members=names,
        table=table,
        chosen=used,
        reason=reason,
        left_out=left_out,
        diversity=_diversity(votes, tried[used], table[used]),
        pruning=None if pruned is None else _told(pruned, names, config.prune),
        pruning_note=note,
    )


def _judge(candidate: Candidate, votes: Votes, folds: int) -> Judged:
    members, rows, classes = votes.log_probs.shape
    seconds = candidate.seconds(members, classes, rows, folds)
    if takes_long(seconds):
        log.warning(
            "ensemble: %s are named in ensemble.weightings; with %d members, %d classes and %d rows of val_ensemble "
            "they may take about %s",
            candidate.name,
            members,
            classes,
            rows,
            duration(seconds),
        )
    return judge(candidate, votes)


def _reference(tried: list[Candidate]) -> int:
    names = [(c.weighting.name, c.pool) for c in tried]
    return names.index(("uniform", "probs")) if ("uniform", "probs") in names else 0


def _pick(tried: list[Candidate], judged: list[Judged]) -> tuple[int, str]:
    """(position of the candidate to use, why): the lowest NLL among those that are better by a standard error."""
    reference = _reference(tried)
    nll = [j.used.nll.mean() for j in judged]
    gains = [gain(judged[reference], j) for j in judged]
    better = [i for i, (_, bound, _) in enumerate(gains) if bound > ROUNDING and nll[i] < nll[reference]]
    standing = tried[reference].name
    if better:
        best = min(better, key=lambda i: nll[i])
        lower, bound, _ = gains[best]
        error = lower - bound
        return best, f"{tried[best].name}: NLL lower by {lower:.4f} than {standing} (standard error {error:.4f})"
    best = int(np.argmin(nll))
    if nll[best] >= nll[reference] - ROUNDING:
        return reference, f"{standing}: lowest cross-fitted NLL"
    lower, bound, _ = gains[best]
    return (
        reference,
        f"{standing}: {tried[best].name} is lower by {lower:.4f}, less than a standard error ({lower - bound:.4f})",
    )


def _table(tried: list[Candidate], judged: list[Judged], standing: Judged, members: int) -> list[CandidateRow]:
    rows = []
    for candidate, result in zip(tried, judged, strict=True):
        weights = np.zeros(members)
        weights[result.members] = influence(result.weights) if candidate.stacks else result.weights
        lower, low, high = gain(standing, result)
        rows.append(
            CandidateRow(
                weighting=candidate.weighting.name,
                pool=candidate.pool,
                weights=weights.tolist(),
                **result.used.quality(),
                temperature=result.temperature,
                nll_plain=float(result.plain.nll.mean()),
                nll_calibrated=float(result.calibrated.nll.mean()),
                nll_gain=lower,
                nll_gain_low=low,
                nll_gain_high=high,
            )
        )
    return rows


def _prune(candidate: Candidate, judged: Judged, votes: Votes, config: Ensemble) -> tuple[pruning.Pruned | None, str]:
    """(what pruning does or None, what to know about it): it is not tried where it takes long and is not wanted."""
    if candidate.stacks:
        return None, NEEDS_ALL
    parts = (votes.logits_MNC, votes.labels_N, votes.folds_N, candidate.pool)
    judge = pruning.Judge(*parts, calibrated=judged.temperature != 1, folder=votes.folder)
    seconds = judge.seconds()
    if takes_long(seconds) and not config.prune:
        return None, too_long(seconds, "set ensemble.prune to have it tried")
    if takes_long(seconds):
        log.warning("ensemble: ensemble.prune is set; pruning may take about %s", duration(seconds))

    def fit(members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if len(members) == len(votes.logits_MNC):
            return judged.weights, judged.fold_weights
        return fits(candidate, votes.of(members))

    return pruning.prune(judge, fit, tolerance=config.prune_tolerance), SELECTED


def _told(pruned: pruning.Pruned, names: list[str], applied: bool) -> Pruning:
    kept = [names[i] for i in pruned.part.kept]
    return Pruning(
        applied=applied,
        kept=kept,
        dropped=[name for name in names if name not in kept],
        nll_before=pruned.nll_before,
        nll_after=pruned.nll_after,
        nll_loss=pruned.nll_after - pruned.nll_before,
        nll_loss_high=pruned.loss_high,
        cost_saved=1 - len(kept) / len(names),
    )


def _diversity(votes: Votes, candidate: Candidate, row: CandidateRow) -> Diversity:
    """The panel of the ensemble in use; of the plain mean beside stacking, which has no weights to scale up."""
    weights_M = np.array(row.weights)
    if candidate.stacks:
        candidate, weights_M = (
            Candidate(Weighting(name="uniform"), "probs"),
            np.full(len(weights_M), 1 / len(weights_M)),
        )
    panel = diversity.panel(votes.logits_MNC, votes.labels_N, weights_M, candidate.pool)
    return Diversity(pooling=candidate.name, **panel)


def chosen(ensemble: Handle) -> Pooling:
    """The ensemble in use."""
    return pooling_of(EnsembleChoice.read(ensemble).used)


def pooling_of(row: CandidateRow) -> Pooling:
    """How the members are pooled by a candidate."""
    weights = row.weights if row.coefficients is None else row.coefficients
    return Pooling(np.array(weights), row.pool, row.temperature)


def active(ensemble: Handle) -> list[str]:
    """Names of the members that count, in their order: those with weight; all of them beside stacking."""
    names = EnsembleChoice.read(ensemble).members
    return [names[i] for i in chosen(ensemble).active]


def label(ensemble: Handle) -> str:
    """What the ensemble in use is called in tables, for instance ``convex-probs``."""
    found = EnsembleChoice.read(ensemble)
    name = f"{found.used.weighting}-{found.used.pool}"
    if found.pruning is not None and found.pruning.applied and found.pruning.dropped:
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
    pooling, names = chosen(ensemble), EnsembleChoice.read(ensemble).members
    if len(member_logits) == len(names):
        member_logits = [member_logits[i] for i in pooling.active]
    assert len(member_logits) == len(pooling.active), f"expected logits of {', '.join(active(ensemble))}"
    readers, narrowed = [reader_of(h) for h in member_logits], pooling.narrowed()
    first = readers[0]
    pooled = room((first.views, first.rows, first.classes), np.float32, Path(ensemble.path).parent)
    for view, start, block in ahead(readers, max(1, BLOCK_BYTES // (len(readers) * first.classes * 8))):
        pooled[view, start : start + block.shape[1]] = narrowed.apply(block)
    return pooled.reshape(-1, first.classes)
