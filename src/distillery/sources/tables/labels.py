"""The classes of a table's rows, as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from distillery.errors import InputError
from distillery.serving.cells import Column, canonical, is_text
from distillery.sources.tables.codes import Declared, Part, category
from distillery.sources.tables.columns import read_part

MANY_CLASSES = 20
NOT_CLASSES = frozenset({"NaN", "nan", "NA", "N/A", "<NA>", "NaT", "null", "NULL"})


def read_labels(name: str, parts: Sequence[Part], declared: Declared) -> list[np.ndarray]:
    """The class of each row of each file, as text.

    A cell is missing where nothing stands, or what `declared.missing` names: a class may be called None.

    Raises:
        InputError: A class is missing, or there are too many for classes.
    """
    column = category(name, parts, declared)
    classes = [_classes(column, part, declared) for part in parts]
    _check_classes(name, parts[0], classes[0])
    return classes


def _classes(column: Column, part: Part, declared: Declared) -> np.ndarray:
    cells = part.cells
    if isinstance(cells.dtype, pd.CategoricalDtype):
        cells = cells.astype(object)
    if is_text(cells):
        codes, spelt = pd.factorize(cells)
        texts = [text.strip() for text in spelt]
        missing = {"", *declared.missing}
        names = [None if text in missing else canonical(text, column.as_written) for text in texts]
        classes = np.array([*names, None], dtype=object)[codes]
    else:
        classes = read_part(column, Part(part.path, cells), declared.missing)
    gone = np.flatnonzero(pd.isna(classes))
    if len(gone):
        raise InputError(
            f"data: expected a class in column {column.name!r} of every row, got {len(gone)} missing, the first in "
            f"data row {gone[0] + 1} of {part.path!r}"
        )
    doubtful = np.flatnonzero(np.isin(classes.astype(str), sorted(NOT_CLASSES)))
    if len(doubtful):
        row = doubtful[0]
        raise InputError(
            f"data: expected a class in column {column.name!r} of every row, got {classes[row]!r}, which reads as "
            f"missing, in data row {row + 1} of {part.path!r}; rename the class, or leave out the row"
        )
    return classes.astype(str)


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
