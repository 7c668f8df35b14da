"""What teachers and students are made of. One file here = one family that a config can name.

A family is a function ``(spec, **options)`` that returns a network (``nn.Module``: float inputs [B, ...] -> logits
[B, C]), an estimator (``fit(X, y)``, ``predict_proba(X)``), or `GivenLogits`. Traits: `kinds` of data it takes, and
whether it is a `network`, which a student must be; `stacks`: kinds of data on which networks of the family can be
stacked to train together (`distillery.training.stacked`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict

import numpy as np

from distillery.registry import Registry


class Traits(TypedDict, total=False):
    """Facts about a family, see above. `outside`: a fitted model that is asked for its answers once."""

    kinds: tuple[Literal["image", "table"], ...]
    network: bool
    stacks: tuple[Literal["image", "table"], ...]
    outside: bool
    check: Callable[[dict[str, object]], object]


# Any: a network, an `Estimator` or `GivenLogits`; the trait `network` and the family say which.
MODELS: Registry[Any, Traits] = Registry(
    "model family", "distillery.models", Traits, own={"kinds": ("table", "image"), "network": True}
)


@dataclass(frozen=True)
class InputSpec:
    """What a model is fed.

    Attributes:
        kind: Pixels of 0-255, or encoded table columns.
        shape: One row: (channels, S, S) or (features,).
        classes: Number of classes C.
        mean: Of the training pixels per channel, on the scale 0-255; empty for tables.
        std: Likewise.
        numbers: Tables: of every feature that holds a number, values on train that stand for it, ascending, each with
            the rows from it up to the next one; empty for marks and categories.
    """

    kind: Literal["image", "table"]
    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    numbers: tuple[tuple[tuple[float, int], ...], ...] = ()

    def to_json(self) -> dict[str, object]:
        """Fields as JSON-able values."""
        return dict(vars(self))


class Estimator(Protocol):
    """A classifier with scikit-learn's interface."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> object:
        """Learns the labels y [N] of the rows X [N, features]."""

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Probabilities [N, C] of the rows X [N, features]."""


@dataclass(frozen=True)
class GivenLogits:
    """Logits [rows of the source, C] that came from outside, and the names of their columns, where these are known."""

    logits: np.ndarray
    columns: tuple[str, ...] = ()
