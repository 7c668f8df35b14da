"""scikit-learn's make_classification: a table of a known difficulty, in any number of rows."""

from __future__ import annotations

import pandas as pd
from sklearn.datasets import make_classification

from distillery.sources import SOURCES, Rows
from distillery.store import fingerprint


@SOURCES.register("make_classification", kind="table")
def synthetic(
    *,
    rows: int,
    random_state: int,
    features: int = 20,
    informative: int = 10,
    redundant: int = 5,
    classes: int = 2,
    clusters_per_class: int = 4,
    class_sep: float = 1.0,
    flip_y: float = 0.01,
) -> Rows:
    """One call of make_classification. Another number of rows is another problem, so split, never regenerate."""
    options = dict(locals())
    x, y = make_classification(
        n_samples=rows,
        n_features=features,
        n_informative=informative,
        n_redundant=redundant,
        n_classes=classes,
        n_clusters_per_class=clusters_per_class,
        class_sep=class_sep,
        flip_y=flip_y,
        random_state=random_state,
    )
    frame = pd.DataFrame(x, columns=[f"x{i:02d}" for i in range(features)])
    return Rows("table", y.astype(str), fingerprint("make_classification", options), frame=frame)
