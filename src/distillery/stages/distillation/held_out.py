"""What a small network is judged by: its answers to labelled rows that it has not learned. N rows, C classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from distillery.ops.metrics import quality, row_correct, row_nll
from distillery.stages.data.dataset import Dataset
from distillery.stages.distillation.calibration import temperature_of


class HeldOut:
    """The rows that judge a training: val_search; with folds for students, all of train.

    With folds a training is one network for each fold, trained without it, that answers the rows of its fold alone.

    Attributes:
        folds: Of the networks of one training; None is the network that learns all of train.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.folds: tuple[int | None, ...] = (None,)
        if dataset.search_by_folds:
            self.folds = tuple(range(dataset.fold_count))

    @cached_property
    def rows(self) -> np.ndarray:
        """Row ids [N] that fit a calibration temperature: val_ensemble where it is held out, then the judged ones."""
        splits = self._dataset.splits
        if self._dataset.folds is not None:
            return splits["val_search"]
        return np.concatenate([splits["val_ensemble"], splits["val_search"]])

    @cached_property
    def labels(self) -> np.ndarray:
        """Class ids [N] of `rows`."""
        return self._dataset.labels_of(self.rows)

    def gathered(self, logits: Sequence[np.ndarray]) -> np.ndarray:
        """The answers [N, C] of a training, from the logits [N, C] of each of its networks on `rows`."""
        if len(self.folds) == 1:
            return logits[0]
        assert self._dataset.folds is not None
        folds_N = self._dataset.folds[self.rows]
        return np.asarray(np.stack(logits)[folds_N, np.arange(len(folds_N))])

    def temperature(self, logits_NC: np.ndarray) -> float:
        """The calibration temperature of a training."""
        return temperature_of(logits_NC, self.labels)

    def judged(self, values_N: np.ndarray) -> np.ndarray:
        """Of values [N, ...] for all `rows`, those of the rows that judge."""
        return values_N[len(values_N) - len(self._dataset.splits["val_search"]) :]

    def figures(self, logits_NC: np.ndarray) -> dict[str, float]:
        """Quality of calibrated answers [N, C], with the standard errors of NLL and accuracy over rows."""
        logits, labels = self.judged(logits_NC), self.judged(self.labels)
        errors = {
            "nll_se": _standard_error(row_nll(logits, labels)),
            "accuracy_se": _standard_error(row_correct(logits, labels)),
        }
        return quality(logits, labels) | errors


def _standard_error(figure_N: np.ndarray) -> float:
    return float(figure_N.std() / np.sqrt(len(figure_N)))
