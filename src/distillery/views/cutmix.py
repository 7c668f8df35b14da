"""Images with a rectangle from another image."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.special import betaincinv

from distillery.ops.counter_rng import CounterRNG
from distillery.views import VIEWS, Pool


@VIEWS.register("cutmix", kinds=("image",), keeps_label=False)
def cutmix(
    inputs: np.ndarray,
    draws: CounterRNG,
    pool: Pool,
    *,
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0,
) -> np.ndarray:
    """A box of ``1 - λ`` of the area comes from a training image, λ from Beta(alpha, alpha).

    Yun et al. 2019, arXiv 1905.04899. The teachers label the patched image itself.

    Args:
        alpha: Shape of the Beta distribution.
    """
    side = inputs.shape[-1]
    half = np.sqrt(1 - betaincinv(alpha, alpha, draws.uniform(0))) * side / 2
    inside = []
    for draw in (1, 2):
        centre = draws.uniform(draw) * side
        pixel = np.arange(side) + 0.5
        inside.append(np.abs(pixel[None] - centre[:, None]) < half[:, None])
    box = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return np.where(box, pool.partners(draws.uniform(3)), inputs)
