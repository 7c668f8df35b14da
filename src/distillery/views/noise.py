"""Numbers with Gaussian noise."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from distillery.ops.counter_rng import CounterRNG
from distillery.views import VIEWS, Pool


@VIEWS.register("noise", kinds=("table",), keeps_label=False)
def noise(
    inputs: np.ndarray, draws: CounterRNG, pool: Pool, *, size: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.3
) -> np.ndarray:
    """Encoded rows [B, features] whose numbers, which have unit variance, get Gaussian noise; categories stay.

    Args:
        size: Standard deviation of the noise.
    """
    numeric = np.flatnonzero(pool.numeric)
    changed = inputs.copy()
    changed[:, numeric] += (size * draws.normals(0, len(numeric))).astype(inputs.dtype)
    return changed
