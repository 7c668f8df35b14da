"""The tables that travel with scikit-learn."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
import pandas as pd
from sklearn import datasets

from distillery.sources import SOURCES, Rows


def table_digest(frame: pd.DataFrame, labels: np.ndarray) -> str:
    """Digest of a table: column names, cells and labels in their order."""
    state = hashlib.blake2b(repr(list(map(str, frame.columns))).encode(), digest_size=12)
    for name in frame.columns:
        state.update(pd.util.hash_pandas_object(frame[name], index=False).to_numpy().tobytes())
    state.update(pd.util.hash_array(np.asarray(labels)).tobytes())
    return state.hexdigest()


@SOURCES.register("sklearn", kind="table")
def sklearn_table(*, dataset: Literal["breast_cancer", "digits", "iris", "wine"]) -> Rows:
    """One of scikit-learn's bundled classification tables, classes by name."""
    bunch = getattr(datasets, f"load_{dataset}")(as_frame=True)
    labels = np.asarray(bunch.target_names, dtype=object)[bunch.target.to_numpy()].astype(str)
    return Rows("table", labels, table_digest(bunch.data, labels), frame=bunch.data)
