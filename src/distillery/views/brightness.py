"""Images of another brightness."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from distillery.ops.counter_rng import CounterRNG
from distillery.views import VIEWS, Pool


@VIEWS.register("brightness", kinds=("image",), keeps_label=True)
def brightness(
    inputs: np.ndarray, draws: CounterRNG, pool: Pool, *, size: Annotated[float, Field(gt=0, lt=1)] = 0.4
) -> np.ndarray:
    """Images [B, channels, S, S], each brighter or darker by a factor between 1 - `size` and 1 + `size`.

    Args:
        size: Largest change of brightness, 0 to 1.
    """
    factor = (1 + size * (2 * draws.uniform(0) - 1)).astype(np.float32).reshape(-1, 1, 1, 1)
    return np.asarray(np.rint(np.minimum(inputs * factor, 255)).astype(inputs.dtype))
