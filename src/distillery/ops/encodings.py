"""How a row of logits becomes fewer bytes. B rows, C classes, W bytes of a row, K classes that are kept.

Logits are kept up to a constant per row, which no softmax sees. What an encoding loses is measured where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import log_softmax, logsumexp

from distillery.errors import InputError

STEPS = 255  # between a row's top class and its lowest
LOWEST = -60000.0  # what float16 can still hold


class Encoding(Protocol):
    """Rows of a fixed number of bytes."""

    @property
    def width(self) -> int:
        """Bytes of a row, W."""

    def encode(self, logits: np.ndarray) -> np.ndarray:
        """Bytes uint8 [B, W] of logits float32 [B, C]."""

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """Logits float32 [B, C] of bytes uint8 [B, W]."""


@dataclass(frozen=True)
class Int8Encoding:
    """int8: how many steps each class is below the top one, 255 for the lowest; a row has its own step, float16."""

    classes: int

    @property
    def width(self) -> int:
        """A byte per class, and the step."""
        return self.classes + 2

    def encode(self, logits: np.ndarray) -> np.ndarray:
        """Bytes of logits."""
        below = logits.max(-1, keepdims=True) - logits
        step = (below.max(-1, keepdims=True) / STEPS).astype(np.float16)
        divisor = np.maximum(step.astype(np.float32), 1e-30)
        numbers = np.clip(np.rint(below / divisor), 0, STEPS).astype(np.uint8)
        return np.concatenate([step.view(np.uint8), numbers], axis=1)

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """Logits with the top one at 0."""
        step = np.ascontiguousarray(rows[:, :2]).view(np.float16).astype(np.float32)
        return np.multiply(rows[:, 2:], -step, dtype=np.float32)


@dataclass(frozen=True)
class TopKEncoding:
    """The `kept` largest log-probabilities, float16, with their classes; the rest share evenly what is left."""

    classes: int
    kept: int

    @property
    def _number(self) -> type[np.uint8] | type[np.uint16] | type[np.uint32]:
        return np.uint8 if self.classes <= 256 else np.uint16 if self.classes <= 1 << 16 else np.uint32

    @property
    def width(self) -> int:
        """A class and a value for each that is kept, and the value of the others."""
        return self.kept * (np.dtype(self._number).itemsize + 2) + 2

    def encode(self, logits: np.ndarray) -> np.ndarray:
        """Bytes of logits."""
        logs = log_softmax(logits, axis=-1)
        classes = np.argpartition(logs, -self.kept, axis=-1)[:, -self.kept :]
        kept = np.take_along_axis(logs, classes, -1)
        rest = logs.copy()
        np.put_along_axis(rest, classes, -np.inf, -1)
        left = logsumexp(rest, axis=-1, keepdims=True) - np.log(self.classes - self.kept)
        values = np.maximum(np.concatenate([kept, left], axis=1), LOWEST).astype(np.float16)
        numbers = classes.astype(self._number)
        return np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in (values, numbers)], axis=1)

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """Log-probabilities, nearly."""
        cut = 2 * (self.kept + 1)
        values = np.ascontiguousarray(rows[:, :cut]).view(np.float16).astype(np.float32)
        classes = np.ascontiguousarray(rows[:, cut:]).view(self._number).astype(np.int64)
        out = np.repeat(values[:, -1:], self.classes, axis=1)
        np.put_along_axis(out, classes, values[:, :-1], -1)
        return out


def encoding_of(dtype: str, top: int | None, classes: int) -> Encoding | None:
    """What a config asks for; None where logits are kept as plain numbers.

    Raises:
        InputError: It would not save anything.
    """
    if top is None and dtype != "int8":
        return None
    encoding: Encoding = Int8Encoding(classes) if top is None else TopKEncoding(classes, top)
    if (top or 0) >= classes or encoding.width >= 2 * classes:
        field = "dtype: int8" if top is None else f"top: {top}"
        raise InputError(
            f"logits.{field} takes {encoding.width} bytes a row for {classes} classes, expected fewer than the "
            f"{2 * classes} of float16"
        )
    return encoding


def kl_at(temperature: float, exact: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """``KL(exact at T ‖ kept at T)`` [B] in nats, of logits [B, C]."""
    p, q = (log_softmax(z.astype(np.float64) / temperature, axis=-1) for z in (exact, kept))
    return np.asarray((np.exp(p) * (p - q)).sum(-1))
