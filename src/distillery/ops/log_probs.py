"""Log-probabilities of the members, made block by block. M members, N rows, B rows of a block, C classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np

from distillery.ops.metrics import row_blocks

# Smallest probabilities of which logarithms are taken.
FLOOR = 1e-12  # in float64, of weightings and of figures: below it a single row would outweigh all others
TEACHER_FLOOR = 1e-7  # of classifiers and files that give probabilities, mostly in float32
TINY = np.finfo(np.float32).tiny  # of a pool in float32: it keeps an infinity out and changes nothing else
LOG_FLOOR = np.log(FLOOR)
KEPT_BYTES = 64 << 20  # of all blocks together, up to which they are made once and kept

Block = tuple[slice, np.ndarray]
"""Some rows, and the log-probabilities float64 [M, B, C] of these rows."""


def log_softmax_of(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities float64 [..., C] of logits [..., C], in an array that the caller may change."""
    logs = np.array(logits, np.float64)
    logs -= logs.max(-1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
    return logs


class LogProbs:
    """Log-probabilities [M, N, C] of some members on some rows, none in memory as a whole where that is much.

    Args:
        logits_MNC: Of all members and rows, perhaps a file's.
        norms_MN: The logarithm of each row's sum of exponentials.
        members: Positions of the members that count, in their order.
        rows: Positions of the rows that count, in their order.
    """

    def __init__(self, logits_MNC: np.ndarray, norms_MN: np.ndarray, members: np.ndarray, rows: np.ndarray) -> None:
        self._logits, self._norms = logits_MNC, norms_MN
        self._members, self._rows = members, rows

    @classmethod
    def of_logits(cls, logits_MNC: np.ndarray) -> LogProbs:
        """The log-probabilities of all members and rows."""
        members, rows, classes = logits_MNC.shape
        norms_MN = np.empty((members, rows))
        for part in row_blocks(rows, members * classes):
            logits = logits_MNC[:, part].astype(np.float64)
            peak = logits.max(-1)
            logits -= peak[:, :, None]
            norms_MN[:, part] = peak + np.log(np.exp(logits).sum(-1))
        return cls(logits_MNC, norms_MN, np.arange(members), np.arange(rows))

    @classmethod
    def of(cls, probs: LogProbs | np.ndarray) -> LogProbs:
        """The same, or the logarithms of probabilities [M, N, C]."""
        if isinstance(probs, LogProbs):
            return probs
        return cls.of_logits(np.log(np.maximum(probs, FLOOR)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Members, rows and classes."""
        return len(self._members), len(self._rows), self._logits.shape[2]

    def of_members(self, places: np.ndarray) -> LogProbs:
        """Those of some of the members."""
        return LogProbs(self._logits, self._norms, self._members[places], self._rows)

    def at(self, places: np.ndarray) -> LogProbs:
        """Those of some of the rows."""
        return LogProbs(self._logits, self._norms, self._members, self._rows[places])

    def at_label(self, labels_N: np.ndarray) -> np.ndarray:
        """The log-probability [M, N] of each row's label; the only one without a floor."""
        members = self._members[:, None]
        return np.asarray(self._logits[members, self._rows, labels_N] - self._norms[members, self._rows])

    def blocks(self) -> Iterable[Block]:
        """All rows, block by block; no log-probability is below that of `FLOOR`. Nothing of a block may be changed."""
        return self._blocks() if self._kept is None else self._kept

    def all(self) -> np.ndarray:
        """All blocks in one array [M, N, C]."""
        whole = np.empty(self.shape)
        for rows, block in self.blocks():
            whole[:, rows] = block
        return whole

    @cached_property
    def _kept(self) -> list[Block] | None:
        members, rows, classes = self.shape
        return list(self._blocks()) if 8 * members * rows * classes <= KEPT_BYTES else None

    def _blocks(self) -> Iterator[Block]:
        _, rows, classes = self.shape
        members = self._members[:, None]
        for part in row_blocks(rows, len(members) * classes):
            ids = self._rows[part]
            block = self._logits[members, ids].astype(np.float64)
            block -= self._norms[members, ids][:, :, None]
            yield part, np.maximum(block, LOG_FLOOR, out=block)
