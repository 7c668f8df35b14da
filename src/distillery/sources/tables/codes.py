"""Columns of text and of codes: one spelling for each, wherever that keeps them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from distillery.serving.cells import Column, blanked, canonical, is_text, number_text


@dataclass(frozen=True)
class Part:
    """One column as it stands in one file.

    Attributes:
        path: The file.
        cells: The column.
    """

    path: str
    cells: pd.Series


@dataclass(frozen=True)
class Declared:
    """What the config says of columns.

    Attributes:
        categories: Columns of codes, not quantities.
        missing: Further spellings of a missing cell.
        decimal: The decimal mark of all columns.
        by_comma: Whether commas separate the columns of the files.
    """

    categories: frozenset[str] = frozenset()
    missing: tuple[str, ...] = ()
    decimal: str | None = None
    by_comma: bool = False


def category(name: str, parts: Sequence[Part], declared: Declared) -> Column:
    """A column of text, with its spellings kept apart where numbers would not keep them apart."""
    spelt: set[str] = set()
    for part in parts:
        cells = part.cells.astype(object) if isinstance(part.cells.dtype, pd.CategoricalDtype) else part.cells
        if is_text(cells):
            spelt |= set(blanked(cells, declared.missing).dropna())
        elif cells.dtype == object:
            spelt |= {cell.strip() for cell in cells if isinstance(cell, str)}
    values = pd.to_numeric(pd.Series(sorted(spelt), dtype=object), errors="coerce")
    lossy = any(
        not np.isnan(value) and number_text(value) != canonical(text)
        for text, value in zip(sorted(spelt), values, strict=True)
    )
    return Column(name, "category", as_written=lossy or _merges(parts[0], declared))


def _merges(part: Part, declared: Declared) -> bool:
    """Whether one spelling of numbers would make one code of two, such as the versions 1.1 and 1.10."""
    if not is_text(part.cells):
        return False
    texts = set(blanked(part.cells, declared.missing).dropna())
    fractions = [text for text in texts if "." in text and "." in canonical(text)]
    return len({canonical(text) for text in fractions}) < len(fractions)
