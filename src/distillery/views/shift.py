"""Images moved by whole pixels."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from distillery.ops.counter_rng import CounterRNG
from distillery.ops.images import shift_images
from distillery.views import VIEWS, Pool


@VIEWS.register("shift", kinds=("image",), keeps_label=True)
def shift(
    inputs: np.ndarray, draws: CounterRNG, pool: Pool, *, size: Annotated[float, Field(ge=0, le=0.5)] = 0.1
) -> np.ndarray:
    """Images [B, channels, S, S], each moved by up to `size` of the side in both directions; edges are repeated.

    Args:
        size: Largest shift as a share of the side, 0 to 0.5.
    """
    side = inputs.shape[-1]
    reach = round(size * side)
    top, left = (draws.below(k, 2 * reach + 1) for k in (0, 1))
    return shift_images(inputs, top, left, reach)
