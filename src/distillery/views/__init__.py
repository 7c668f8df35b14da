"""Views: changed versions of a training row that the teachers label and the student is shown, exactly the same ones.

One file here = one transform that a config can name: a function ``(inputs [B, ...], draws, pool, **options) -> inputs
of the same shape and type``. All randomness comes from `draws`, so that view v of a row is a pure function of (row, v)
and nothing has to be stored but v. Traits: `kinds` of data it takes, and whether it `keeps_label`; where it does not,
the student is given the teachers' answer instead of the row's label.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Literal, TypedDict

import numpy as np

from distillery.ops.encoded_rows import Encoded
from distillery.registry import Registry


class Traits(TypedDict, total=False):
    """Facts about a transform, see above."""

    kinds: tuple[Literal["image", "table"], ...]
    keeps_label: bool


VIEWS: Registry[np.ndarray, Traits] = Registry("view", "distillery.views", Traits)


@dataclass(frozen=True)
class Pool:
    """The training rows, from which a transform may take partners.

    Attributes:
        inputs: All encoded rows of the source [N, ...], perhaps on disk.
        rows: Row ids of the training split.
        columns: Tables: the source column of each feature, int64 [features]; features of one column belong together.
        numeric: Tables: which features hold numbers, bool [features]; the others are 0 or 1.
    """

    inputs: Encoded
    rows: np.ndarray
    columns: np.ndarray
    numeric: np.ndarray
    _kept: dict[Hashable, tuple[np.ndarray, ...]] = field(default_factory=dict, repr=False)

    def partners(self, share: np.ndarray) -> np.ndarray:
        """Training rows [B, ...] at the places `share` [B] in [0, 1) of the split."""
        return np.asarray(self.inputs[self.rows[(share * len(self.rows)).astype(np.int64)]])

    def cached(self, key: Hashable, make: Callable[[np.ndarray], tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
        """``make(training rows)``, computed at the first call with this key."""
        if key not in self._kept:
            self._kept[key] = make(np.asarray(self.inputs[self.rows]))
        return self._kept[key]
