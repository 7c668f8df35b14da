"""What looks wrong in the columns of a table, one sentence each. N rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from distillery.serving.cells import Column, is_text

RARE = 10  # a category seen fewer times in training is treated like one never seen
KEY_NAMES = ("id", "uuid", "guid", "key", "index", "rowid", "row_id", "rownumber")
INDEX_NAMES = ("", "Unnamed: 0", "index", "X", "rownames")  # what pandas and R write over the names of rows
FAR = 1000.0  # times the spread of the middle of a column
ENOUGH_ROWS = 50  # from which on a pattern is hardly chance


def may_be_index(name: str) -> bool:
    """Whether a column is called as programs call the index that they save with a table."""
    return name in INDEX_NAMES


def numbers_rows(cells: pd.Series) -> bool:
    """Whether a column only numbers the rows."""
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return len(numbers) > 1 and bool(np.array_equal(numbers - numbers[0], np.arange(len(numbers))))


def about_columns(frame: pd.DataFrame, columns: list[Column], labels: np.ndarray) -> list[str]:
    """What should be known of the training rows [N] of a table, read already."""
    notes = []
    for column in columns:
        cells = frame[column.name]
        if not cells.notna().any():
            notes.append(f"column {column.name!r} is empty in training: it counts for nothing")
        elif cells.nunique(dropna=False) == 1:
            notes.append(f"column {column.name!r} is the same in every training row: it counts for nothing")
        else:
            about_cells = _about_text(column.name, cells) if is_text(cells) else _about_numbers(column, cells)
            notes += about_cells
            if not about_cells:
                notes += _about_label(column.name, cells, labels)
    return notes


def _about_text(name: str, cells: pd.Series) -> list[str]:
    counts = cells.value_counts()
    if counts.iloc[0] < RARE:
        return [
            f"column {name!r} holds {len(counts)} texts, none of them in {RARE} training rows: the models learn "
            "nothing from it"
        ]
    rare = counts[counts < RARE].sum()
    if rare > 0.5 * len(cells):
        return [f"column {name!r}: {rare} of {len(cells)} training rows hold a text that is in fewer than {RARE} rows"]
    return []


def _about_numbers(column: Column, cells: pd.Series) -> list[str]:
    values = cells.dropna().to_numpy(np.float64)
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
    spread = max(high - middle, middle - low)
    far = np.abs(values - middle) > FAR * spread
    notes = []
    if spread > 0 and far.any():
        example = values[far][0]
        notes.append(
            f"column {column.name!r}: {int(far.sum())} training rows are far from all others, such as {example:.12g}; "
            "if that stands for a missing value, name it in data.missing"
        )
    whole = bool((values == np.round(values)).all())
    unique = len(np.unique(values)) == len(cells) and len(cells) >= ENOUGH_ROWS
    if whole and unique and _is_key(column.name):
        notes.append(f"column {column.name!r} is another number in every row, like a key; leave it out with data.drop")
    return notes


def _is_key(name: str) -> bool:
    lower = name.lower()
    return lower in KEY_NAMES or lower.endswith(("_id", " id", "-id")) or name.endswith(("Id", "ID"))


def _about_label(name: str, cells: pd.Series, labels: np.ndarray) -> list[str]:
    """Whether the column alone tells the class of every row."""
    if len(cells) < ENOUGH_ROWS or cells.isna().any():
        return []
    labelled = pd.Series(labels, index=cells.index)
    if is_text(cells):
        several = cells.nunique() <= len(cells) // RARE
        tells = several and bool((labelled.groupby(cells).nunique() == 1).all())
    else:
        order = np.argsort(cells.to_numpy(), kind="stable")
        values, classes = cells.to_numpy()[order], labels[order]
        changes = np.flatnonzero(classes[1:] != classes[:-1])
        ties = values[changes] == values[changes + 1]
        tells = len(changes) == len(np.unique(labels)) - 1 and not ties.any()
    if not tells:
        return []
    return [f"column {name!r} alone tells the class of every training row: is it known when the model is asked?"]
