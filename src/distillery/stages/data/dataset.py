"""A finished stage `data`, opened."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from distillery.models import InputSpec
from distillery.ops.encoded_rows import Encoded, open_inputs
from distillery.stages.data.folds import NO_FOLD
from distillery.stages.data.record import DatasetRecord
from distillery.stages.data.splits import HELD_OUT
from distillery.store import Handle, fingerprint
from distillery.views import Pool

LEARNED = ("train", "val_ensemble", "val_search")  # what a network, its calibration and its choice rest on
FOLDS = "folds.npy"


@dataclass(frozen=True)
class Dataset:
    """A finished `data` stage, opened. Inputs stay on disk until rows are taken."""

    handle: Handle

    @cached_property
    def inputs(self) -> Encoded:
        """Encoded rows, memory-mapped: uint8 [N, channels, S, S] or float32 [N, features]."""
        return open_inputs(Path(self.handle.path))

    @cached_property
    def splits(self) -> dict[str, np.ndarray]:
        """Row ids of each split, ascending."""
        with np.load(self.handle.file("splits.npz")) as arrays:
            splits = {name: arrays[name] for name in arrays.files}
        # With folds, every row of train is answered by models that have not seen it.
        return {**dict.fromkeys(HELD_OUT, splits["train"]), **splits}

    @cached_property
    def rows(self) -> dict[str, int]:
        """Number of rows of each split, each row counted once: without those that train stands in for."""
        with np.load(self.handle.file("splits.npz")) as arrays:
            return {name: len(arrays[name]) for name in arrays.files}

    @property
    def search_by_folds(self) -> bool:
        """Whether students are judged on the rows of train as well, each by a student that has not seen it."""
        return "val_search" not in self.rows

    @cached_property
    def folds(self) -> np.ndarray | None:
        """Fold of each row of the source, int64 [N]; `NO_FOLD` outside train. None where val_ensemble is held out."""
        if not self.handle.file(FOLDS).exists():
            return None
        folds = np.full(len(self._labels), NO_FOLD, np.int64)
        folds[self.splits["train"]] = np.load(self.handle.file(FOLDS))
        return folds

    @property
    def fold_count(self) -> int:
        """Number of folds; 0 where val_ensemble is held out."""
        return 0 if self.folds is None else int(self.folds.max()) + 1

    @property
    def left_out(self) -> list[tuple[int, ...]]:
        """The folds that each model of a teacher is trained without: one; two, where students are judged by folds."""
        if self.folds is None:
            return [()]
        numbers = range(self.fold_count)
        alone: list[tuple[int, ...]] = [(fold,) for fold in numbers]
        return [*alone, *combinations(numbers, 2)] if self.search_by_folds else alone

    def places_without(self, left_out: tuple[int, ...]) -> np.ndarray:
        """Places in train of the rows that are in none of these folds, int64 [rows]."""
        train = self.splits["train"]
        if self.folds is None:
            return np.arange(len(train))
        return np.flatnonzero(~np.isin(self.folds[train], left_out))

    @cached_property
    def _labels(self) -> np.ndarray:
        return np.load(self.handle.file("labels.npy"))

    @cached_property
    def _record(self) -> DatasetRecord:
        return DatasetRecord.read(self.handle)

    @cached_property
    def spec(self) -> InputSpec:
        """What a model is fed."""
        return self._record.spec

    @cached_property
    def pool(self) -> Pool:
        """The training rows, for views."""
        features: list[tuple[str, str]] = self.handle.json("features.json") if self.spec.kind == "table" else []
        names = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in features))}
        columns = np.array([names[name] for name, _ in features], np.int64)
        numeric = np.array([kind == "number" for _, kind in features], bool)
        return Pool(self.inputs, self.splits["train"], columns, numeric)

    def digest(self, *splits: str) -> str:
        """Changes whenever a row or label of these splits does, or what all rows have in common; no other row counts.

        The unlabelled rows are the split ``unlabeled``; where there are none, it changes nothing to name it.
        """
        digests = self._record.digests
        named = {name: digests[name] for name in ("common", *splits) if name in digests}
        return fingerprint("rows", named)

    @property
    def digests(self) -> dict[str, str]:
        """Digest of the rows and labels of each split."""
        return self._record.digests

    @cached_property
    def places(self) -> np.ndarray:
        """Place of each row of the source in the transfer set, train then unlabelled, int64 [N]; -1 elsewhere."""
        places = np.full(len(self._labels), -1, np.int64)
        shown = np.concatenate([self.splits["train"], self.unlabeled])
        places[shown] = np.arange(len(shown))
        return places

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the logits' columns."""
        return self._record.classes

    @property
    def skipped(self) -> list[str]:
        """Names of rows that could not be read."""
        return self._record.skipped

    @property
    def notes(self) -> list[str]:
        """A sentence for each thing that was left out, rewritten or looks wrong in the data."""
        return self._record.notes

    @property
    def unlabeled(self) -> np.ndarray:
        """Ids of the rows without a label, ascending; perhaps none."""
        return self.splits.get("unlabeled", np.empty(0, np.int64))

    def labels(self, split: str) -> np.ndarray:
        """Class ids of a split, int64 [rows]."""
        return self._labels[self.splits[split]]

    def labels_of(self, rows: np.ndarray) -> np.ndarray:
        """Class ids of rows of the source, int64 [rows]; -1 for rows without a label.

        Raises:
            AssertionError: A row is of the test split.
        """
        assert not np.isin(rows, self.splits["test"]).any()
        return self._labels[rows]
