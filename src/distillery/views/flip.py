"""Images mirrored left to right."""

from __future__ import annotations

import numpy as np

from distillery.counter import Draws
from distillery.views import VIEWS, Pool


@VIEWS.register("flip", kinds=("image",), keeps_label=True)
def flip(inputs: np.ndarray, draws: Draws, pool: Pool) -> np.ndarray:
    """Images [B, channels, S, S], half of them mirrored."""
    mirrored = draws.uniform(0) < 0.5
    return np.where(mirrored[:, None, None, None], inputs[..., ::-1], inputs)
