"""Tables in files: their cells as they stand there, whatever the kind, the encoding or the compression."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet

from distillery.errors import InputError, first_line
from distillery.sources.tables.file_kinds import EXCEL, JSON, KINDS, PARQUET, TEXT, check_names, kind_of
from distillery.sources.tables.text_file import Dialect, TextFile


class Table(Protocol):
    """A table in a file.

    Attributes:
        path: The file, as the user wrote it.
        names: Of the columns, in the file's order, without blanks at their ends.
        index: Columns in which pandas kept its index.
        rows: How many there are; None where only reading tells.
        notes: What was found out about the file that its reader should know.
    """

    path: str
    names: list[str]
    index: list[str]
    rows: int | None
    notes: list[str]

    def batches(self, size: int) -> Iterator[pd.DataFrame]:
        """The rows, at least one at a time; cells of text files are text, None where nothing stands."""
        ...

    def column(self, name: str) -> pd.Series:
        """One column, whole: a text file's cells are text, None where nothing stands."""
        ...


def open_table(path: str, dialect: Dialect, what: str = "data") -> Table:
    """The table in a file, or in a folder of Parquet files.

    Raises:
        InputError: It does not exist, is of another kind, or cannot be read.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise InputError(f"{what}: expected a {KINDS}, got {path!r}, which does not exist")
    suffix = kind_of(file)
    if file.is_dir() and not any(file.rglob("*.parquet")):
        raise InputError(f"{what}: expected a {KINDS}, got the folder {path!r} without any .parquet file")
    if suffix in EXCEL:
        raise InputError(f"{what}: {path!r} is a spreadsheet: save the sheet as CSV (UTF-8), or as Parquet")
    try:
        if file.is_dir() or suffix in PARQUET:
            return _Parquet(path, file)
        if suffix in JSON or suffix == ".json":
            return _Whole(path, _read_json(file))
        if suffix in TEXT:
            return TextFile(path, file, dialect, what)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: cannot read {path!r} as a table: {first_line(error)}") from error
    raise InputError(f"{what}: expected a {KINDS}, got {path!r}")


class _Parquet:
    def __init__(self, path: str, file: Path) -> None:
        self.path, self._file = path, file
        self.notes: list[str] = []
        folders = "hive" if file.is_dir() else None  # folders such as year=2024 hold a column
        some = next(file.rglob("*.parquet")) if file.is_dir() else file
        check_names(path, [name.strip() for name in pa.parquet.read_schema(some).names])
        self._data = pa.dataset.dataset(file, format="parquet", partitioning=folders)
        self._stored = list(self._data.schema.names)
        self.rows: int | None = self._data.count_rows()
        kept = (self._data.schema.pandas_metadata or {}).get("index_columns", [])
        self.index = [name.strip() for name in kept if isinstance(name, str) and name in self._stored]
        # An index of whole numbers in steps is kept as its ends alone.
        ranges = [entry for entry in kept if isinstance(entry, dict) and entry.get("name") and not file.is_dir()]
        self._ranges = {entry["name"]: pd.RangeIndex(entry["start"], entry["stop"], entry["step"]) for entry in ranges}
        self.index += list(self._ranges)
        self.names = [name.strip() for name in self._stored] + list(self._ranges)

    def batches(self, size: int) -> Iterator[pd.DataFrame]:
        first = 0
        for batch in self._data.to_batches(batch_size=size):
            if not batch.num_rows:
                continue
            frame = pa.Table.from_batches([batch]).to_pandas(ignore_metadata=True)
            for name, numbers in self._ranges.items():
                frame[name] = numbers[first : first + len(frame)].to_numpy()
            frame.columns = pd.Index(self.names)
            first += len(frame)
            yield frame

    def column(self, name: str) -> pd.Series:
        if name in self._ranges:
            return self._ranges[name].to_series(index=range(len(self._ranges[name])))
        stored = self._stored[self.names.index(name)]
        return self._data.to_table(columns=[stored]).to_pandas(ignore_metadata=True).iloc[:, 0]


class _Whole:
    """A table that is read in one go."""

    def __init__(self, path: str, frame: pd.DataFrame) -> None:
        self.path, self._frame = path, frame
        self.notes: list[str] = []
        self.names = [str(name).strip() for name in frame.columns]
        self.index: list[str] = []
        check_names(path, self.names)
        frame.columns = pd.Index(self.names)
        self.rows: int | None = len(frame)

    def batches(self, size: int) -> Iterator[pd.DataFrame]:
        for start in range(0, len(self._frame), size):
            yield self._frame.iloc[start : start + size].reset_index(drop=True)

    def column(self, name: str) -> pd.Series:
        return self._frame[name]


def _read_json(file: Path) -> pd.DataFrame:
    with fsspec.open(str(file), "rt", encoding="utf-8-sig", compression="infer") as stream:
        text = stream.read()
    lines = not text.lstrip().startswith("[")
    options: dict[str, object] = {"orient": "records", "lines": lines, "dtype": False, "convert_dates": False}
    return pd.read_json(io.StringIO(text), convert_axes=False, precise_float=True, **options)


def guess_separator(names: list[str]) -> str | None:
    """What separates the columns, where all names stand in the first one."""
    if len(names) != 1:
        return None
    for mark in (";", "\t", "|", ","):
        if mark in names[0]:
            return mark
    return None
