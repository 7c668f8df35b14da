"""The cells of a table as a model's inputs: one piece of code in training, in `predict` and in a registered model.

What was learned about a table's columns, or set, is a `Reading`. It is kept inside the exported model.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pandas as pd

from .numbers import PLAIN, NumberFormat, parse

Feeds = dict[str, np.ndarray]
NUMBERS = "numbers"  # the input of a table that holds nothing else

MISSING = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "<NA>", "N/A", "n/a", "NA", "NULL"}
    | {"null", "NaN", "-NaN", "nan", "-nan", "NaT", "None"}
)
TRUTH = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}
ISO = re.compile(r"\d{4}-\d\d?(-\d\d?)?([T ]\d\d?:\d\d(:\d\d(\.\d+)?)?)? ?(Z|UTC|[+-]\d\d:?\d\d)?")
EPOCH = datetime.datetime(1970, 1, 1)


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
        super().__init__(self.told(1))

    def told(self, first: int) -> str:
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
        found = {}
        for column in self.columns:
            if names.count(column.name) != 1:
                got = "none of that name" if column.name not in names else "several of that name"
                raise CellError(column.name, "one column", f"{got} among {', '.join(map(repr, names))}")
            cells = frame.iloc[:, names.index(column.name)]
            found[column.name] = read_cells(cells, column, self.missing)
        return pd.DataFrame(found, index=frame.index)

    def feeds(self, frame: pd.DataFrame) -> Feeds:
        """Raw rows as the inputs of the exported model; see `side_by_side`.

        Raises:
            CellError: See `clean`.
        """
        return table_feeds(self.clean(frame))


def is_number(column: pd.Series) -> bool:
    """Whether a column holds numbers (or truth values) by its type."""
    return bool(pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column))


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
    stripped = cells.astype(object).str.strip()
    gone = cells.isna() | stripped.isin(MISSING.union(missing))
    return stripped.mask(gone, None)


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
        values = _numbers_of_text(blanked(cells, missing), column)
    else:
        values = _one_by_one(cells, column, missing)
    for marker in _markers(missing):
        values[values == marker] = np.nan
    return values


def _numbers_of_text(texts: pd.Series, column: Column) -> np.ndarray:
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
            text = blanked(pd.Series([_decoded(cell)], dtype=object), missing)
            try:
                values[row] = _numbers_of_text(text, column)[0]
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
    known: dict[Any, float] = {}
    values = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if _is_gone(cell):
            continue
        if cell not in known:
            known[cell] = _seconds(cell, column, missing, row)
        values[row] = known[cell]
    return values


def _seconds(cell: Any, column: Column, missing: Sequence[str], row: int) -> float:
    if isinstance(cell, datetime.datetime):
        return _since_epoch(cell)
    if isinstance(cell, datetime.date):
        return _since_epoch(datetime.datetime(cell.year, cell.month, cell.day))
    text = _decoded(cell).strip() if isinstance(cell, str | bytes) else str(cell)
    if text in MISSING or text in missing:
        return np.nan
    found = parse_time(text, column.time_format) if isinstance(cell, str | bytes) else None
    if found is None:
        raise CellError(column.name, _wanted(column), repr(cell), row)
    return found


def parse_time(text: str, time_format: str) -> float | None:
    """Seconds since 1970 of a date, perhaps with the time of the day; None if it is not written so.

    A time without a zone is taken as it stands.
    """
    if time_format:
        date, _, clock = text.partition(" ")
        try:
            day = datetime.datetime.strptime(date, time_format)
        except ValueError:
            return None
        text = f"{day:%Y-%m-%d} {_of_24_hours(clock)}".strip() if day.year > 999 else ""
    if not ISO.fullmatch(text):
        return None
    try:
        return _since_epoch(datetime.datetime.fromisoformat(_fixed_width(text)))
    except ValueError:
        return None


def _of_24_hours(clock: str) -> str:
    """The time of a day as 13:30 where it is written as 1:30 PM."""
    parts = re.fullmatch(r"(\d\d?)(:\d\d(?::\d\d)?) ?([AaPp])\.?[Mm]\.?", clock)
    if parts is None:
        return clock
    hour = int(parts[1]) % 12 + (12 if parts[3] in "Pp" else 0)
    return f"{hour:02d}{parts[2]}"


def _fixed_width(text: str) -> str:
    """An ISO time as Python's parser takes it: two digits for each part, six for the fraction, no word for the zone."""
    text = re.sub(r"^(\d{4}-\d\d?)$", r"\1-01", text)
    text = re.sub(r" ?(Z|UTC)$", "+00:00", text)
    text = re.sub(r"(?<=[-T :])(\d)(?=$|[-T :+.])", r"0\1", text)
    fraction = re.search(r"\.(\d+)", text)
    if fraction:
        text = text.replace(fraction[0], "." + fraction[1][:6].ljust(6, "0"), 1)
    return text


def _since_epoch(time: datetime.datetime) -> float:
    if time.tzinfo is not None:
        time = time.astimezone(datetime.UTC).replace(tzinfo=None)
    return (time - EPOCH).total_seconds()


def _texts(cells: pd.Series, column: Column, missing: Sequence[str]) -> np.ndarray:
    if is_text(cells):
        texts = blanked(cells, missing)
        codes, found = pd.factorize(texts)
        spelt = np.array([canonical(text, column.as_written) for text in found] + [None], dtype=object)
        return spelt[codes]
    if cells.dtype != object:
        codes, found = pd.factorize(cells)
        first = [int(np.flatnonzero(codes == code)[0]) for code in range(len(found))] if column.as_written else codes
        each = [_text(cell, column, missing, int(row)) for cell, row in zip(found, first, strict=False)]
        return np.array([*each, None], dtype=object)[codes]
    spelt = np.full(len(cells), None, dtype=object)
    for row, cell in enumerate(cells):
        if not _is_gone(cell):
            spelt[row] = _text(cell, column, missing, row)
    return spelt


def _text(cell: Any, column: Column, missing: Sequence[str], row: int) -> str | None:
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


def number_text(cell: Any) -> str:
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


def _is_gone(cell: Any) -> bool:
    return cell is None or cell is pd.NaT or cell is pd.NA or (isinstance(cell, float | np.floating) and cell != cell)


def _wanted(column: Column) -> str:
    if column.kind == "category":
        return "text"
    if column.kind == "truth":
        return "true or false"
    if column.kind == "time":
        return f"dates such as {column.time_format or '2024-06-30 or 2024-06-30 12:00'}"
    return "numbers"
