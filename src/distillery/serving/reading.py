"""How the raw rows of a table become a model's inputs: learned in training, and kept inside the exported model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from .cells import CellError, Column, is_number, read_cells
from .numbers import NumberFormat

Feeds = dict[str, np.ndarray]
NUMBERS = "numbers"  # the input of a table that holds nothing else


@dataclass(frozen=True)
class Reading:
    """How the rows of a table become a model's inputs.

    Attributes:
        columns: Those that the model takes, in its order.
        missing: Spellings of a missing cell besides `MISSING`.
        label: The column that held the class in training; "" if none did.
        left_out: Columns that training left out.
        separator: Of the columns in a text file; None: as the file's name says.
        encoding: Of a text file; None: found out.
        header: Whether a text file begins with the names of its columns.
    """

    columns: tuple[Column, ...]
    missing: tuple[str, ...] = ()
    label: str = ""
    left_out: tuple[str, ...] = ()
    separator: str | None = None
    encoding: str | None = None
    header: bool = True

    def to_json(self) -> str:
        """As text; the same for equal readings."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Reading:
        """What `to_json` gave."""
        tree = json.loads(text)
        columns = []
        for column in tree.pop("columns"):
            numbers = NumberFormat(**column.pop("numbers"))
            columns.append(Column(**column, numbers=numbers))
        missing, left_out = tuple(tree.pop("missing")), tuple(tree.pop("left_out"))
        return cls(tuple(columns), missing=missing, left_out=left_out, **tree)

    @classmethod
    def of_frame(cls, frame: pd.DataFrame) -> Reading:
        """A reading of a table whose columns are numbers or text already."""
        columns = []
        for name in map(str, frame.columns):
            if pd.api.types.is_bool_dtype(frame[name]):
                columns.append(Column(name, "truth"))
            elif is_number(frame[name]):
                columns.append(Column(name, "number"))
            else:
                columns.append(Column(name, "category"))
        return cls(tuple(columns))

    @property
    def names(self) -> list[str]:
        """The columns that the model takes, in its order."""
        return [column.name for column in self.columns]

    def clean(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The model's columns [N]: float64 for numbers, truth values and times, text with None for categories.

        Columns that the model does not take are passed over.

        Raises:
            CellError: A column is missing, or a cell is not what its column takes.
        """
        names = [str(name).strip() for name in frame.columns]
        columns = {}
        for column in self.columns:
            if names.count(column.name) != 1:
                got = "none of that name" if column.name not in names else "several of that name"
                raise CellError(column.name, "one column", f"{got} among {', '.join(map(repr, names))}")
            cells = frame.iloc[:, names.index(column.name)]
            columns[column.name] = read_cells(cells, column, self.missing)
        return pd.DataFrame(columns, index=frame.index)

    def feeds(self, frame: pd.DataFrame) -> Feeds:
        """Raw rows as the inputs of the exported model; see `side_by_side`.

        Raises:
            CellError: See `clean`.
        """
        return table_feeds(self.clean(frame))


def table_feeds(frame: pd.DataFrame) -> Feeds:
    """Clean rows of a table as the inputs of its graph; see `side_by_side`."""
    return side_by_side(column_feeds(frame))


def side_by_side(columns: Feeds) -> Feeds:
    """``{NUMBERS: float64 [N, columns]}`` where all columns hold numbers, else the columns as they are.

    Each input of a session costs a microsecond, as much as a layer of a small network.
    """
    if any(values.dtype != np.float64 for values in columns.values()):
        return columns
    return {NUMBERS: np.stack(list(columns.values()), axis=1)}


def column_feeds(frame: pd.DataFrame) -> Feeds:
    """Each clean column by its name: float64 [N] for numbers, text [N] (missing = "") for all others."""
    feeds: Feeds = {}
    for name in frame.columns:
        column = frame[name]
        if is_number(column):
            feeds[str(name)] = column.to_numpy(np.float64, na_value=np.nan)
        else:
            feeds[str(name)] = column.astype(object).where(column.notna(), "").astype(str).to_numpy(object)
    return feeds
