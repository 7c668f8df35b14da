"""The classes of a table's rows, as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from distillery.data.columns import Declared, Part, category, read_part
from distillery.errors import InputError
from distillery.serving.cells import canonical, is_text

MANY_CLASSES = 20
NOT_CLASSES = frozenset({"NaN", "nan", "NA", "N/A", "<NA>", "NaT", "null", "NULL"})


def read_labels(name: str, parts: Sequence[Part], declared: Declared) -> list[np.ndarray]:
    """The class of each row of each file, as text.

    A cell is missing where nothing stands, or what `declared.missing` names: a class may be called None.

    Raises:
        InputError: A class is missing, or there are too many for classes.
    """
    column = category(name, parts, declared)
    found = []
    for part in parts:
        cells = part.cells
        gone = cells.isna().to_numpy()
        if is_text(cells):
            texts = cells.astype(object).str.strip()
            gone = gone | texts.isin({"", *declared.missing}).to_numpy()
            classes = np.array([canonical(t, column.as_written) if isinstance(t, str) else "" for t in texts], object)
            doubtful = np.isin(classes, sorted(NOT_CLASSES)) & ~gone
            if doubtful.any():
                row = int(np.flatnonzero(doubtful)[0])
                raise InputError(
                    f"data: expected a class in column {name!r} of every row, got {classes[row]!r}, which reads as "
                    f"missing, in data row {row + 1} of {part.path!r}; rename the class, or leave out the row"
                )
        else:
            classes = read_part(column, part, declared.missing)
        if gone.any():
            row = int(np.flatnonzero(gone)[0])
            raise InputError(
                f"data: expected a class in column {name!r} of every row, got {int(gone.sum())} missing, the first in "
                f"data row {row + 1} of {part.path!r}"
            )
        found.append(classes.astype(str))
    _check_classes(name, parts[0], found[0])
    return found


def _check_classes(name: str, part: Part, classes: np.ndarray) -> None:
    """Refuses what is a quantity to be predicted, or infinite."""
    values = pd.to_numeric(pd.Series(classes, dtype=object).drop_duplicates(), errors="coerce").to_numpy(np.float64)
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isin(np.char.lower(classes), ("inf", "-inf", "+inf", "infinity", "-infinity")))[0])
        raise InputError(
            f"data: column {name!r}: expected a class, got infinity in data row {row + 1} of {part.path!r}"
        )
    fractions = not np.isnan(values).any() and bool((values != np.round(values)).any())
    if fractions and len(values) > max(MANY_CLASSES, len(classes) // 10):
        raise InputError(
            f"data: column {name!r} of {part.path!r}: expected classes, got {len(values)} different numbers with "
            "fractions: only classes can be predicted, not quantities"
        )
