"""Rows blended with other rows."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.special import betaincinv

from distillery.ops.counter_rng import CounterRNG
from distillery.views import VIEWS, Pool


@VIEWS.register("mixup", kinds=("image", "table"), keeps_label=False)
def mixup(
    inputs: np.ndarray,
    draws: CounterRNG,
    pool: Pool,
    *,
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.4,
) -> np.ndarray:
    """``λ x + (1 - λ) x'`` with a training row x' and λ from Beta(alpha, alpha) (Zhang et al. 2018, arXiv 1710.09412).

    The teachers label the blend itself, so no label has to be blended.

    Args:
        alpha: Shape of the Beta distribution: 1 is uniform, near 0 leaves rows almost as they are.
    """
    strength = betaincinv(alpha, alpha, draws.uniform(0)).reshape(-1, *[1] * (inputs.ndim - 1))
    blend = strength * inputs + (1 - strength) * pool.partners(draws.uniform(1))
    return np.asarray((np.rint(blend) if inputs.dtype == np.uint8 else blend).astype(inputs.dtype))
