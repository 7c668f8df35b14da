"""How the numbers of a table are scaled, so that float32 keeps their order and tells them apart. N rows, F columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WILD = 4.0  # times the spread of a column's middle: from there on a few far values make its standard deviation
KNEE = 3.0  # spreads from the median, up to which a wild column is scaled as it is; beyond them by a logarithm
LEAST_BOUND = 10.0
RANGES = ((25, 75, 1.349), (5, 95, 3.290), (1, 99, 4.653))  # percentiles, and their distance in standard deviations


@dataclass(frozen=True)
class Scaling:
    """``(x - center) / scale``, compressed beyond `knee`, and never beyond `bound`.

    Attributes:
        median: What takes the place of a missing value [F].
        center: [F].
        scale: [F]; infinite for a column that is the same in every row, which makes it zero.
        knee: [F]; infinite where nothing is compressed.
        bound: The largest size of a scaled value; no training row comes to it.
    """

    median: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    knee: np.ndarray
    bound: float


def scaling(values: np.ndarray, shared: bool) -> Scaling:
    """The scaling of numbers float64 [N, F], NaN where missing, fitted on them.

    Each column gets mean 0 and variance 1, or with `shared` all of them together. A few values far away from all
    others, such as 999999999 for "not known", would push the others so close together that float32 cannot tell them
    apart. Such a column is scaled by its median and the spread of its middle instead.
    """
    # As in splits.py, imported only where data is prepared.
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    imputer = SimpleImputer(strategy="median", keep_empty_features=True).fit(values)
    median = imputer.statistics_.astype(np.float64)
    complete = np.where(np.isnan(values), median, values)
    # Differences of the largest float64 numbers would be infinite.
    size = max(1.0, float(np.abs(complete).max()) / 1e150)
    scaler = StandardScaler().fit((complete / size).reshape(-1, 1) if shared else complete / size)
    width = values.shape[1]
    center = np.broadcast_to(scaler.mean_ * size, width).astype(np.float64)
    scale = np.broadcast_to(scaler.scale_ * size, width).astype(np.float64)
    knee = np.full(width, np.inf)
    if not shared:
        spread = _spread(complete)
        wild = (spread > 0) & (scale > WILD * spread)
        center = np.where(wild, median, center)
        scale = np.where(wild, spread, scale)
        knee = np.where(wild, KNEE, np.inf)
    constant = (complete == complete[:1]).all(0)
    scaled = (complete - center) / np.where(constant, np.inf, scale)
    bound = max(LEAST_BOUND, 2 * float(np.abs(np.where(np.isfinite(knee), 0, scaled)).max()))
    if np.isfinite(knee).any():
        far = np.abs(scaled[:, np.isfinite(knee)]).max()
        bound = max(bound, 2 * KNEE * (1 + float(np.log(max(far / KNEE, 1)))))
    return Scaling(median, center, np.where(constant, np.inf, scale), knee, bound)


def _spread(complete: np.ndarray) -> np.ndarray:
    """The standard deviation that each column [F] would have, were all of it like its middle; 0 if constant."""
    found = np.zeros(complete.shape[1])
    for low, high, distance in RANGES:
        ends = np.percentile(complete, (low, high), axis=0)
        wide = (ends[1] - ends[0]) / distance
        found = np.where(found > 0, found, wide)
    return found
