"""Random numbers that depend on nothing but what they are for.

A draw is a pure function of (key, row, view number, draw number): the number of workers, the order of rows and a
resumed run change nothing, and nothing has to be stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class CounterRNG:
    """The random numbers of one transform for a batch of rows.

    Attributes:
        rows: What tells the rows apart, whole numbers of 64 bits [B]: their places in the transfer set, or hashes.
        numbers: View number of each row, int64 [B].
        key: Tells streams apart: one for each transform of a config.
    """

    rows: np.ndarray
    numbers: np.ndarray
    key: int = 0

    def uniform(self, draw: int) -> np.ndarray:
        """Draw number `draw` of each row, float64 [B] in [0, 1): SplitMix64 (Steele, Lea and Flood 2014)."""
        with np.errstate(over="ignore"):
            state = self.rows.astype(np.uint64) * MIX
            state += self.numbers.astype(np.uint64) * np.uint64(0xD1342543DE82EF95)
            state += np.uint64(draw) + np.uint64(self.key) * np.uint64(0xA0761D6478BD642F)
            state += MIX
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
                state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
            state ^= state >> np.uint64(31)
        return (state >> np.uint64(11)).astype(np.float64) / float(1 << 53)

    def uniforms(self, first: int, count: int) -> np.ndarray:
        """CounterRNG `first` ... `first` + `count` - 1 of each row, float64 [B, count]."""
        return np.stack([self.uniform(first + k) for k in range(count)], axis=1)

    def normals(self, first: int, count: int) -> np.ndarray:
        """Standard normal numbers, float64 [B, count], from twice as many draws (Box and Muller 1958)."""
        radius = np.sqrt(-2 * np.log1p(-self.uniforms(first, count)))
        return np.asarray(radius * np.cos(2 * np.pi * self.uniforms(first + count, count)))

    def below(self, draw: int, limit: int) -> np.ndarray:
        """Whole numbers 0 ... `limit` - 1, int64 [B]."""
        return (self.uniform(draw) * limit).astype(np.int64)
