"""Rows as they may arrive on a bad day: noisy, with holes, badly lit. B rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx

from distillery.ops.metrics import paired_difference, row_correct
from distillery.ops.sampling import in_parts
from distillery.serving.reading import column_feeds, side_by_side
from distillery.sources import Rows
from distillery.stages.data import preprocess
from distillery.stages.data.dataset import Dataset
from distillery.stages.evaluation.record import Disturbed
from distillery.stages.roles import Role

SEED = 20260101
Disturbance = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Answers = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Encoded rows [B, ...] and their ids [B] -> logits [B, C]."""


def disturbed_answers(
    dataset: Dataset, rows: Rows, ids: np.ndarray, models: Mapping[Role, Answers]
) -> dict[str, dict[Role, np.ndarray]]:
    """Logits [N, C] of every model for rows under every disturbance, by disturbance and role.

    The rows are read, disturbed and answered part by part, so that memory does not grow with them.

    Args:
        dataset: The encoded rows.
        rows: The raw rows.
        ids: Row ids [N].
        models: What answers.
    """
    answers: dict[str, dict[Role, list[np.ndarray]]] = {}
    for number, part in enumerate(in_parts(ids, dataset.spec.shape)):
        for name, inputs in disturbances(dataset, rows, part, SEED + number).items():
            own = answers.setdefault(name, {role: [] for role in models})
            for role, answer in models.items():
                own[role].append(answer(inputs, part))

    joined: dict[str, dict[Role, np.ndarray]] = {}
    for name, own in answers.items():
        joined[name] = {role: np.concatenate(parts) for role, parts in own.items()}
    return joined


def losses(
    candidate: Role,
    before: Mapping[Role, np.ndarray],
    after: Mapping[str, Mapping[Role, np.ndarray]],
    labels_N: np.ndarray,
    *,
    resamples: int,
    confidence: float,
) -> list[Disturbed]:
    """Accuracy of candidate and ensemble under each disturbance, and how much more the candidate loses by it.

    Args:
        candidate: The role of the model that is compared with the ensemble.
        before: Logits [N, C] of both for the rows as they are.
        after: The same by disturbance, as `disturbed_answers` gives them.
        labels_N: Classes.
        resamples: Of the bootstrap.
        confidence: Of the interval.
    """
    table = []
    for disturbance, answers in after.items():
        still = {role: row_correct(logits, labels_N) for role, logits in answers.items()}
        lost = {role: row_correct(before[role], labels_N) - still[role] for role in still}
        beyond = paired_difference(
            lost[candidate], lost[Role.ENSEMBLE], resamples=resamples, confidence=confidence, largest=2
        )
        row = Disturbed(
            disturbance=disturbance,
            rows=len(labels_N),
            candidate=float(still[candidate].mean()),
            ensemble=float(still[Role.ENSEMBLE].mean()),
            beyond_ensemble=beyond,
        )
        table.append(row)
    return table


def disturbances(dataset: Dataset, rows: Rows, ids: np.ndarray, seed: int = SEED) -> dict[str, np.ndarray]:
    """Encoded inputs [B, ...] of the given rows under each disturbance, by its name.

    Args:
        dataset: The encoded rows.
        rows: The raw rows.
        ids: Row ids [B].
        seed: Of all that is drawn; rows that are disturbed in several parts need one for each.
    """
    inputs = np.asarray(dataset.inputs[ids])
    if dataset.spec.kind == "image":
        return {name: _pixels(change, inputs, seed) for name, change in IMAGE.items()}
    found = {f"noise of {size:g} sd": _noisy(inputs, dataset.pool.numeric, size, seed) for size in (0.1, 0.2)}
    for share in (0.05, 0.1):
        found[f"{share:.0%} of cells missing"] = _with_holes(dataset, rows, ids, share, seed)
    return found


def _noisy(inputs: np.ndarray, numeric: np.ndarray, size: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, size, inputs.shape) * numeric
    return np.asarray((inputs + noise).astype(inputs.dtype))


def _with_holes(dataset: Dataset, rows: Rows, ids: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Raw rows with cells taken out at random, through the same preprocessing as any other row."""
    assert rows.frame is not None
    feeds = column_feeds(rows.frame.iloc[ids])
    generator = np.random.default_rng(seed)
    for name, values in feeds.items():
        gone = generator.random(len(values)) < share
        feeds[name] = np.where(gone, np.nan if values.dtype == np.float64 else "", values).astype(values.dtype)
    graph = preprocess.session(onnx.load(dataset.handle.file("preprocess.onnx")))
    return preprocess.encode(graph, side_by_side(feeds)).astype(dataset.inputs.dtype)


def _pixels(change: Disturbance, images: np.ndarray, seed: int) -> np.ndarray:
    changed = change(images.astype(np.float32), np.random.default_rng(seed))
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def _grain(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return images + generator.normal(0, 0.08 * 255, images.shape)


def _dark(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return 0.6 * images


def _covered(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    side = images.shape[-1]
    edge = max(1, side // 4)
    places = generator.integers(0, side - edge + 1, (len(images), 2))
    covered = images.copy()
    for image, (top, left) in zip(covered, places, strict=True):
        image[:, top : top + edge, left : left + edge] = 127
    return covered


IMAGE: dict[str, Disturbance] = {
    "noise of 8 % of the range": _grain,
    "40 % darker": _dark,
    "a square of 1/16 covered": _covered,
}
