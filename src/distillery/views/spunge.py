"""Table rows with some columns from other rows."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from distillery.ops.counter_rng import CounterRNG
from distillery.views import VIEWS, Pool


@VIEWS.register("spunge", kinds=("table",), keeps_label=False)
def spunge(
    inputs: np.ndarray,
    draws: CounterRNG,
    pool: Pool,
    *,
    columns: Annotated[float, Field(ge=0, le=1)] = 0.2,
    noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1,
) -> np.ndarray:
    """Each column comes from a training row of its own with probability `columns`, and numbers get a little noise.

    All features of one source column move together, so categories stay valid. The hot-deck part follows AutoGluon's
    augmentation of that name.

    Args:
        columns: Share of the columns that are replaced, 0 to 1.
        noise: Standard deviation of the noise on numbers, which have unit variance.
    """
    changed = inputs.copy()
    names = np.unique(pool.columns)
    for index, name in enumerate(names):
        rows = np.flatnonzero(draws.uniform(2 * index) < columns)
        features = np.flatnonzero(pool.columns == name)
        partners = pool.partners(draws.uniform(2 * index + 1)[rows])
        changed[np.ix_(rows, features)] = partners[:, features]
    if noise:
        numeric = np.flatnonzero(pool.numeric)
        changed[:, numeric] += (noise * draws.normals(2 * len(names), len(numeric))).astype(inputs.dtype)
    return changed
