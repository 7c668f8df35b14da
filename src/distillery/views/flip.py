"""Images mirrored left to right."""

from __future__ import annotations

import numpy as np

from distillery.ops.counter_rng import CounterRNG
from distillery.ops.images import flip_
from distillery.views import VIEWS, Pool


@VIEWS.register("flip", kinds=("image",), keeps_label=True)
def flip(inputs: np.ndarray, draws: CounterRNG, pool: Pool) -> np.ndarray:
    """Images [B, channels, S, S], half of them mirrored."""
    changed = inputs.copy()
    flip_(changed, draws.uniform(0) < 0.5)
    return changed
