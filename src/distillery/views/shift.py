"""Images moved by whole pixels."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from distillery.counter import Draws
from distillery.views import VIEWS, Pool


@VIEWS.register("shift", kinds=("image",), keeps_label=True)
def shift(
    inputs: np.ndarray, draws: Draws, pool: Pool, *, size: Annotated[float, Field(ge=0, le=0.5)] = 0.1
) -> np.ndarray:
    """Images [B, channels, S, S], each moved by up to `size` of the side in both directions; edges are repeated.

    Args:
        size: Largest shift as a share of the side, 0 to 0.5.
    """
    side = inputs.shape[-1]
    reach = round(size * side)
    top, left = (draws.below(k, 2 * reach + 1) - reach for k in (0, 1))
    rows = np.clip(np.arange(side) + top[:, None], 0, side - 1)
    columns = np.clip(np.arange(side) + left[:, None], 0, side - 1)
    picture = np.arange(len(inputs))[:, None, None]
    moved = inputs.transpose(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]]
    return np.ascontiguousarray(moved.transpose(0, 3, 1, 2))
