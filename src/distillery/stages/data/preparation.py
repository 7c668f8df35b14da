"""Stage `data`: rows are read once, split, preprocessed and kept as one array that every later stage maps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from distillery.config.data import Data
from distillery.errors import InputError
from distillery.models import InputSpec
from distillery.ops.encoded_rows import NAME, Encoded, open_inputs
from distillery.ops.quantile_bin_edges import quantile_bin_edges
from distillery.serving.image_file import DECODING
from distillery.sources import SOURCES, Rows
from distillery.stages.data import preprocess
from distillery.stages.data.dataset import FOLDS
from distillery.stages.data.folds import check_folds, deal_folds
from distillery.stages.data.image_pack import finish_images, pack_images
from distillery.stages.data.pack import check_usable, finish, pack
from distillery.stages.data.record import DatasetRecord
from distillery.stages.data.repeated_rows import repeated, unseen
from distillery.stages.data.splits import HELD_OUT, NAMES, split_rows
from distillery.store import Handle, Store, checksum, checksums, fingerprint, write_json

VERSION = 8
MOST_BIN_EDGES = 257  # of every number on train, among which networks place the edges of their bins


def read_source(config: Data, store: Store | None = None) -> Rows:
    """All rows that the config names, lazily where reading is expensive.

    Args:
        config: The source.
        store: Where to keep checksums of files, so that unchanged ones are not read again next time.

    Raises:
        InputError: The source cannot be read.
    """
    if store is None:
        rows: Rows = SOURCES[config.source](**config.options)
        return rows
    with checksums.kept_in(_kept(config, store, "hashes")):
        return read_source(config)


def _kept(config: Data, store: Store, what: str) -> Path:
    """Where it is kept what is known of the files of a source."""
    return store.root / "checksums" / f"{fingerprint(VERSION, DECODING, what, config.source, config.options)}.json"


def prepare(config: Data, rows: Rows, store: Store) -> Handle:
    """The stage directory with splits, preprocessing graph, encoded inputs and labels.

    Files: ``inputs.npy`` (tables: float32 [N, features]) or the folder ``inputs`` (images: uint8 [N, channels, S, S],
    see `image_pack`), ``labels.npy`` int64 [N], ``splits.npz`` (row ids), perhaps ``folds.npy`` int64 [rows of train],
    ``preprocess.onnx``, ``dataset.json``.

    Raises:
        InputError: Rows cannot be split, or an image cannot be read and the config says to stop.
    """
    shape = (
        {"image_size": config.image_size, "image_fit": config.image_fit}
        if rows.kind == "image"
        else {"scale": config.scale}
    )
    key = [VERSION, rows.digest, rows.on_error, shape, config.split]
    return store.stage("data", config.source, key, lambda work: _build(work, config, rows, store))


def _build(work: Path, config: Data, rows: Rows, store: Store) -> dict[str, int]:
    known = np.ones(len(rows), bool) if rows.unlabeled is None else ~rows.unlabeled
    classes, found = np.unique(rows.labels[known], return_inverse=True)
    labels = np.full(len(rows), -1, np.int64)
    labels[known] = found
    np.save(work / "labels.npy", labels)
    contents = rows.contents() if config.split.order == "hashed" else None
    if rows.kind == "image":
        # Fail on what the labels alone can tell before the long part, the decoding.
        _split(config, rows, None, contents)
        graph = preprocess.image_graph(rows.channels, config.image_size, config.image_fit)
        encoded_by = fingerprint(DECODING, graph.SerializeToString(deterministic=True).hex())
        usable = pack_images(work, rows, encoded_by, _encoder(graph, rows))
        _check_readable(rows, usable, classes, labels)
        splits = _split(config, rows, usable, contents)
    else:
        assert rows.frame is not None
        splits = _split(config, rows, None, contents)
        graph = preprocess.table_graph(rows.frame.iloc[splits["train"]], config.scale, rows.reading)
        usable = pack(work / NAME, rows, np.arange(len(rows)), _encoder(graph, rows))
        check_usable(usable)
    onnx.save(graph, work / "preprocess.onnx")
    np.savez(work / "splits.npz", **splits)  # type: ignore[arg-type]
    folds = _folds(config, rows, labels, splits)
    if folds is not None:
        np.save(work / FOLDS, folds)
    inputs = open_inputs(work)
    if rows.kind == "image":
        spec = InputSpec(rows.kind, inputs.shape[1:], len(classes), *_moments(inputs, splits["train"]))
    else:
        sources = preprocess.feature_sources(graph)
        numbers = _numbers(inputs[splits["train"]], sources)
        spec = InputSpec(rows.kind, inputs.shape[1:], len(classes), numbers=numbers)
        write_json(work / "features.json", sources)
    skipped = [rows.names[i] if rows.names else str(i) for i in np.flatnonzero(~usable)]
    notes = [*rows.notes, *repeated(rows, labels, splits)]
    if rows.look is not None:
        with checksums.kept_in(_kept(config, store, "notes")):
            notes += rows.look()
    if skipped:
        notes.append(f"Images that cannot be read and are left out: {len(skipped)}, the first of them {skipped[0]!r}.")
    names = [str(name) for name in classes]
    digests = {"common": fingerprint(names, spec.to_json(), checksum(work / "preprocess.onnx"))}
    for name, ids in splits.items():
        digests[name] = _digest(inputs, labels, ids)
    if folds is not None:
        by_fold = fingerprint(digests["train"], folds.tolist())
        digests = {**dict.fromkeys(HELD_OUT, by_fold), **digests}
    record = DatasetRecord(classes=names, spec=spec, skipped=skipped, notes=notes, digests=digests)
    record.write(work)
    if rows.kind == "image":
        finish_images(work)
    else:
        finish(work / NAME)
    counts = {f"rows_{name}": len(ids) for name, ids in splits.items()}
    if folds is not None:
        counts["folds"] = int(folds.max()) + 1
    return {**counts, "classes": len(classes), "skipped": len(skipped)}


def _check_readable(rows: Rows, usable: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> None:
    learned = usable if rows.given_test is None else usable & ~rows.given_test
    lost = np.setdiff1d(np.arange(len(classes)), labels[learned])
    if len(lost):
        raise InputError(
            f"data: expected images that can be read in every class, got none of class {str(classes[lost[0]])!r}; "
            "mend them, or take the class out of the data"
        )


def _digest(inputs: Encoded, labels: np.ndarray, ids: np.ndarray) -> str:
    """Hex digest of the encoded rows `ids` and their labels, in their order."""
    state = hashlib.blake2b(labels[ids].tobytes(), digest_size=12)
    for start in range(0, len(ids), 1024):
        state.update(inputs[ids[start : start + 1024]].data)
    return state.hexdigest()


def _split(config: Data, rows: Rows, usable: np.ndarray | None, contents: np.ndarray | None) -> dict[str, np.ndarray]:
    split = config.split
    if rows.unlabeled is not None:
        usable = ~rows.unlabeled if usable is None else usable & ~rows.unlabeled
    parts = split_rows(
        rows.labels,
        {name: getattr(split, name) for name in NAMES},
        ordered=split.order == "ordered",
        seed=split.seed,
        given_test=rows.given_test,
        usable=usable,
        contents=contents,
        names=_names(config, rows, usable),
    )
    if rows.unlabeled is not None:
        parts["unlabeled"] = unseen(rows, parts)
    return parts


def _names(config: Data, rows: Rows, usable: np.ndarray | None) -> tuple[str, ...]:
    """The splits that are made: with folds, the rows of train stand in for val_ensemble, and perhaps for val_search."""
    split = config.split
    labelled = np.ones(len(rows), bool) if usable is None else usable
    if rows.given_test is not None:
        beside_test = float((labelled & ~rows.given_test).sum())
    else:
        beside_test = labelled.sum() * (1 - split.test) if split.test < 1 else labelled.sum() - split.test
    left_out = []
    if split.folds is not None and beside_test <= split.folds_up_to:
        left_out.append("val_ensemble")
        if beside_test <= split.search_folds_up_to:
            left_out.append("val_search")
    return tuple(name for name in NAMES if name not in left_out)


def _folds(config: Data, rows: Rows, labels: np.ndarray, splits: dict[str, np.ndarray]) -> np.ndarray | None:
    """The fold of each row of train, int64 [rows of train]; None where val_ensemble is held out."""
    if "val_ensemble" in splits:
        return None
    assert config.split.folds is not None
    train = splits["train"]
    folds = deal_folds(labels[train], rows.contents()[train], config.split.folds, config.split.seed)
    check_folds(folds, labels[train], 1 if "val_search" in splits else 2)
    return folds


def _encoder(graph: onnx.ModelProto, rows: Rows) -> Callable[[np.ndarray], np.ndarray]:
    running = preprocess.session(graph)
    return lambda ids: preprocess.encode(running, rows.feed(ids))


def _moments(inputs: Encoded, train: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the training pixels per channel."""
    count, total, squares = 0, np.zeros(inputs.shape[1]), np.zeros(inputs.shape[1])
    for start in range(0, len(train), 1024):
        pixels = inputs[train[start : start + 1024]].astype(np.float64)
        count += pixels.size // pixels.shape[1]
        total += pixels.sum((0, 2, 3))
        squares += (pixels**2).sum((0, 2, 3))
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1.0))
    return tuple(mean.tolist()), tuple(std.tolist())


def _numbers(train: np.ndarray, sources: list[tuple[str, str]]) -> tuple[tuple[tuple[float, int], ...], ...]:
    """Bin edges of every feature that holds a number, each with the rows from it up to the next one."""
    return tuple(
        _bin_edges(column) if kind == "number" else () for column, (_, kind) in zip(train.T, sources, strict=True)
    )


def _bin_edges(column: np.ndarray) -> tuple[tuple[float, int], ...]:
    values, counts = np.unique(column, return_counts=True)
    places = quantile_bin_edges(values, counts, MOST_BIN_EDGES)
    mass = np.add.reduceat(counts, places)
    return tuple((float(v), int(m)) for v, m in zip(values[places], mass, strict=True))
