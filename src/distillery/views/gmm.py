"""Table rows from a model of their distribution."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Annotated

import numpy as np
from pydantic import Field
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from distillery.errors import InputError
from distillery.ops.counter_rng import CounterRNG
from distillery.views import VIEWS, Pool

RIDGE = 1e-3


@VIEWS.register("gmm", kinds=("table",), keeps_label=False)
def gmm(
    inputs: np.ndarray,
    draws: CounterRNG,
    pool: Pool,
    *,
    components: Annotated[int, Field(ge=1)] = 16,
    seed: Annotated[int, Field(ge=0)] = 0,
) -> np.ndarray:
    """New rows [B, features] from a mixture of Gaussians with full covariances, fitted on the training rows.

    Args:
        components: Most components; the number 1, 2, 4, ... with the lowest BIC is taken (Schwarz 1978).
        seed: Of the fit.

    Raises:
        InputError: The table has columns that are not numbers.
    """
    if not pool.numeric.all():
        raise InputError(
            "view 'gmm': expected a table of numbers, got categories or missing values; 'spunge' takes them"
        )
    mixture = pool.cached(("gmm", components, seed), partial(_fit, components=components, seed=seed))
    weights, means, roots = mixture
    which = np.minimum(np.searchsorted(np.cumsum(weights), draws.uniform(0)), len(weights) - 1)
    normal = draws.normals(1, inputs.shape[1])
    return np.asarray((means[which] + np.einsum("bij,bj->bi", roots[which], normal)).astype(inputs.dtype))


def _fit(rows: np.ndarray, components: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [K], means [K, features] and Cholesky roots of the covariances [K, features, features]."""
    rows = rows.astype(np.float64)
    best: tuple[float, GaussianMixture] | None = None
    size = 1
    while size == 1 or (size <= components and size * (rows.shape[1] + 1) < len(rows)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = GaussianMixture(size, reg_covar=RIDGE, random_state=seed).fit(rows)
        score = fitted.bic(rows)
        if best is None or score < best[0]:
            best = float(score), fitted
        size *= 2
    assert best is not None
    mixture = best[1]
    return mixture.weights_, mixture.means_, np.linalg.cholesky(mixture.covariances_)
