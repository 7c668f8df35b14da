"""Rows as they may arrive on a bad day: noisy, with holes, badly lit. B rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from distillery import preprocess
from distillery.data import Rows
from distillery.dataset import Dataset
from distillery.serving.reading import column_feeds, side_by_side

SEED = 20260101
Disturbance = Callable[[np.ndarray], np.ndarray]


def disturbances(dataset: Dataset, rows: Rows, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Encoded inputs [B, ...] of the given rows under each disturbance, by its name."""
    inputs = np.asarray(dataset.inputs[ids])
    if dataset.spec.kind == "image":
        return {name: change(inputs) for name, change in IMAGE.items()}
    found = {f"noise of {size:g} sd": _noisy(inputs, dataset.pool.numeric, size) for size in (0.1, 0.2)}
    return found | {f"{share:.0%} of cells missing": _with_holes(dataset, rows, ids, share) for share in (0.05, 0.1)}


def _noisy(inputs: np.ndarray, numeric: np.ndarray, size: float) -> np.ndarray:
    noise = np.random.default_rng(SEED).normal(0, size, inputs.shape) * numeric
    return np.asarray((inputs + noise).astype(inputs.dtype))


def _with_holes(dataset: Dataset, rows: Rows, ids: np.ndarray, share: float) -> np.ndarray:
    """Raw rows with cells taken out at random, through the same preprocessing as any other row."""
    assert rows.frame is not None
    feeds = column_feeds(rows.frame.iloc[ids])
    generator = np.random.default_rng(SEED)
    for name, values in feeds.items():
        gone = generator.random(len(values)) < share
        feeds[name] = np.where(gone, np.nan if values.dtype == np.float64 else "", values).astype(values.dtype)
    graph = preprocess.session(onnx.load(dataset.handle.file("preprocess.onnx")))
    return preprocess.encode(graph, side_by_side(feeds)).astype(dataset.inputs.dtype)


def _pixels(change: Disturbance) -> Disturbance:
    return lambda images: np.clip(np.rint(change(images.astype(np.float32))), 0, 255).astype(np.uint8)


def _grain(images: np.ndarray) -> np.ndarray:
    return images + np.random.default_rng(SEED).normal(0, 0.08 * 255, images.shape)


def _dark(images: np.ndarray) -> np.ndarray:
    return 0.6 * images


def _covered(images: np.ndarray) -> np.ndarray:
    side = images.shape[-1]
    edge = max(1, side // 4)
    places = np.random.default_rng(SEED).integers(0, side - edge + 1, (len(images), 2))
    covered = images.copy()
    for image, (top, left) in zip(covered, places, strict=True):
        image[:, top : top + edge, left : left + edge] = 127
    return covered


IMAGE: dict[str, Disturbance] = {
    "noise of 8 % of the range": _pixels(_grain),
    "40 % darker": _pixels(_dark),
    "a square of 1/16 covered": _pixels(_covered),
}
