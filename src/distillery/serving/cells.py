"""The cells of a column as numbers or as text: one piece of code in training, in `predict` and in a served model."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np
import pandas as pd

from .numbers import PLAIN, NumberFormat, parse
from .times import EPOCH, parse_time, since_epoch

MISSING = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "<NA>", "N/A", "n/a", "NA", "NULL"}
    | {"null", "NaN", "-NaN", "nan", "-nan", "NaT", "None"}
)
TRUTH = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}


class CellError(ValueError):
    """A cell, or a whole column, is not what its column takes.

    Attributes:
        column: Its name.
        expected: What the column takes.
        got: What stands there, or why it cannot be read.
        row: Place of the cell among the rows that were asked for; None for a whole column.
    """

    def __init__(self, column: str, expected: str, got: str, row: int | None = None) -> None:
        self.column, self.expected, self.got, self.row = column, expected, got, row
        super().__init__(self.message(1))

    def message(self, first: int) -> str:
        """The error in words, where the first of the rows has the number `first`."""
        where = "" if self.row is None else f" in row {first + self.row}"
        return f"column {self.column!r}: expected {self.expected}, got {self.got}{where}"


@dataclass(frozen=True)
class Column:
    """What one column holds and how it is written.

    Attributes:
        name: As in the file, without blanks at its ends.
        kind: ``number``; ``truth`` (0 and 1); ``time`` (seconds since 1970, UTC); ``category`` (text).
        numbers: How numbers are written.
        time_format: Of `datetime.strptime`, the date alone; "" for ISO 8601.
        as_written: Of a category: its texts look like numbers, and would not survive being read as such.
    """

    name: str
    kind: Literal["number", "truth", "time", "category"]
    numbers: NumberFormat = PLAIN
    time_format: str = ""
    as_written: bool = False


def is_number(column: pd.Series) -> bool:
    """Whether a column holds numbers (or truth values) by its type."""
    return bool(pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column))


def read_cells(cells: pd.Series, column: Column, missing: Sequence[str] = ()) -> np.ndarray:
    """The cells of one column: float64 [N], NaN where missing; or text [N], None where missing.

    Raises:
        CellError: A cell is not what the column takes, or is infinite.
    """
    if isinstance(cells.dtype, pd.CategoricalDtype):
        cells = cells.astype(object)
    if column.kind == "category":
        return _texts(cells, column, missing)
    if column.kind == "time":
        values = _times(cells, column, missing)
    else:
        values = _numbers(cells, column, missing)
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise CellError(column.name, "finite numbers", "infinity", int(infinite[0]))
    return values


def is_text(cells: pd.Series) -> bool:
    """Whether all cells that are not missing are text."""
    if isinstance(cells.dtype, pd.StringDtype):
        return True
    return cells.dtype == object and pd.api.types.infer_dtype(cells, skipna=True) in ("string", "empty")


def blanked(cells: pd.Series, missing: Sequence[str] = ()) -> pd.Series:
    """Cells of text without blanks at their ends; None where one is missing or spells a missing one."""
    codes, distinct = pd.factorize(cells)
    gone = MISSING.union(missing)
    stripped = [text.strip() for text in distinct]
    texts = [None if text in gone else text for text in stripped]
    return pd.Series(np.array([*texts, None], dtype=object)[codes], cells.index, dtype=object)


def _markers(missing: Sequence[str]) -> list[float]:
    """Missing cells that are spelt as numbers, such as -999."""
    values = pd.to_numeric(pd.Series(list(missing), dtype=object), errors="coerce")
    return [float(value) for value in values if not np.isnan(value)]


def _numbers(cells: pd.Series, column: Column, missing: Sequence[str]) -> np.ndarray:
    if is_number(cells):
        if pd.api.types.is_complex_dtype(cells):
            raise CellError(column.name, "numbers", "complex numbers")
        values = cells.to_numpy(np.float64, na_value=np.nan, copy=True)
    elif pd.api.types.is_datetime64_any_dtype(cells):
        raise CellError(column.name, _wanted(column), "dates and times")
    elif pd.api.types.is_timedelta64_dtype(cells):
        values = cells.dt.total_seconds().to_numpy(np.float64, na_value=np.nan, copy=True)
    elif is_text(cells):
        values = _numbers_of_text(cells, column, missing)
    else:
        values = _one_by_one(cells, column, missing)
    for marker in _markers(missing):
        values[values == marker] = np.nan
    return values


def plain_numbers(cells: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """(cells of text as Python would read them, float64 [N]; places of those that are neither numbers nor missing)."""
    values = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan, copy=True)
    return values, np.flatnonzero(np.isnan(values) & cells.notna().to_numpy())


def _numbers_of_text(cells: pd.Series, column: Column, missing: Sequence[str]) -> np.ndarray:
    if column.kind == "truth" or not column.numbers.is_plain:
        return _each_number(blanked(cells, missing), column)
    values, others = plain_numbers(cells)
    if len(others):
        try:
            values[others] = _each_number(blanked(cells.iloc[others], missing), column)
        except CellError as error:
            raise CellError(column.name, error.expected, error.got, int(others[error.row or 0])) from error
    return values


def _each_number(texts: pd.Series, column: Column) -> np.ndarray:
    if column.kind == "truth":
        values = texts.str.lower().map(TRUTH).to_numpy(np.float64)
    else:
        values = parse(texts, column.numbers)
    bad = np.flatnonzero(np.isnan(values) & texts.notna().to_numpy())
    if len(bad):
        raise CellError(column.name, _wanted(column), repr(texts.iat[bad[0]]), int(bad[0]))
    return values


def _one_by_one(cells: pd.Series, column: Column, missing: Sequence[str]) -> np.ndarray:
    """Cells of several types, such as whole numbers beside truth values, decimals or text."""
    values = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if isinstance(cell, bool | int | float | Decimal | np.number | np.bool_):
            values[row] = float(cell)
        elif isinstance(cell, datetime.timedelta):
            values[row] = cell.total_seconds()
        elif isinstance(cell, str | bytes):
            text = pd.Series([_decoded(cell)], dtype=object)
            try:
                values[row] = _numbers_of_text(text, column, missing)[0]
            except CellError as error:
                raise CellError(column.name, error.expected, error.got, row) from error
        elif not _is_gone(cell):
            raise CellError(column.name, _wanted(column), f"a {type(cell).__name__}", row)
    return values


def _times(cells: pd.Series, column: Column, missing: Sequence[str]) -> np.ndarray:
    if pd.api.types.is_datetime64_any_dtype(cells):
        utc = cells.dt.tz_convert("UTC").dt.tz_localize(None) if cells.dt.tz is not None else cells
        return ((utc - pd.Timestamp(EPOCH)) / pd.Timedelta(seconds=1)).to_numpy(np.float64, copy=True)
    if is_number(cells) and cells.notna().any():
        raise CellError(column.name, _wanted(column), f"the number {cells.dropna().iat[0]}")
    seconds: dict[object, float] = {}
    values = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if _is_gone(cell):
            continue
        if cell not in seconds:
            seconds[cell] = _seconds(cell, column, missing, row)
        values[row] = seconds[cell]
    return values


def _seconds(cell: object, column: Column, missing: Sequence[str], row: int) -> float:
    if isinstance(cell, datetime.datetime):
        return since_epoch(cell)
    if isinstance(cell, datetime.date):
        return since_epoch(datetime.datetime(cell.year, cell.month, cell.day))
    text = _decoded(cell).strip() if isinstance(cell, str | bytes) else str(cell)
    if text in MISSING or text in missing:
        return np.nan
    seconds = parse_time(text, column.time_format) if isinstance(cell, str | bytes) else None
    if seconds is None:
        raise CellError(column.name, _wanted(column), repr(cell), row)
    return seconds


def _texts(cells: pd.Series, column: Column, missing: Sequence[str]) -> np.ndarray:
    if is_text(cells):
        texts = blanked(cells, missing)
        codes, distinct = pd.factorize(texts)
        spelt = np.array([canonical(text, column.as_written) for text in distinct] + [None], dtype=object)
        return spelt[codes]
    if cells.dtype != object:
        codes, distinct = pd.factorize(cells)
        first = [int(np.flatnonzero(codes == code)[0]) for code in range(len(distinct))] if column.as_written else codes
        each = [_text(cell, column, missing, int(row)) for cell, row in zip(distinct, first, strict=False)]
        return np.array([*each, None], dtype=object)[codes]
    spelt = np.full(len(cells), None, dtype=object)
    for row, cell in enumerate(cells):
        if not _is_gone(cell):
            spelt[row] = _text(cell, column, missing, row)
    return spelt


def _text(cell: object, column: Column, missing: Sequence[str], row: int) -> str | None:
    if isinstance(cell, bool | np.bool_):
        return str(bool(cell))
    if isinstance(cell, int | float | Decimal | np.number):
        if column.as_written:
            raise CellError(column.name, "text such as the training file holds", f"the number {cell}", row)
        if not np.isfinite(float(cell)):
            raise CellError(column.name, _wanted(column), str(cell), row)
        text = number_text(cell)
    elif isinstance(cell, str | bytes):
        text = canonical(_decoded(cell).strip(), column.as_written)
    elif isinstance(cell, datetime.date | datetime.time):
        text = cell.isoformat()
    else:
        raise CellError(column.name, _wanted(column), f"a {type(cell).__name__}", row)
    return None if text in MISSING or text in missing else text


def number_text(cell: int | float | Decimal | np.number) -> str:
    """A number as text: a whole one without a decimal mark, whatever its type."""
    if isinstance(cell, int | np.integer):
        return str(int(cell))
    value = cell if isinstance(cell, np.floating) else float(cell)
    return np.format_float_positional(value, trim="-")


def canonical(text: str, as_written: bool = False) -> str:
    """One spelling of a category: ``1`` for ``1.0``, ``True`` for ``TRUE``; unchanged otherwise."""
    if text.lower() in ("true", "false"):
        return text.capitalize()
    if as_written or not re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?", text):
        return text
    whole, mark, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}" if mark and fraction else whole


def _decoded(cell: str | bytes) -> str:
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell


def _is_gone(cell: object) -> bool:
    return cell is None or cell is pd.NaT or cell is pd.NA or (isinstance(cell, float | np.floating) and cell != cell)


def _wanted(column: Column) -> str:
    if column.kind == "category":
        return "text"
    if column.kind == "truth":
        return "true or false"
    if column.kind == "time":
        return f"dates such as {column.time_format or '2024-06-30 or 2024-06-30 12:00'}"
    return "numbers"
