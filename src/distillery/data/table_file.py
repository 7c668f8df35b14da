"""Tables in CSV and Parquet files: numbers, categories, missing values, text labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from distillery.data import SOURCES, Rows, as_text, is_number
from distillery.data.sklearn_tables import table_digest
from distillery.errors import InputError


@SOURCES.register("table", kind="table")
def table_file(
    *,
    path: str,
    label: str,
    test_path: str | None = None,
    unlabeled_path: str | None = None,
    drop: list[str] | None = None,
    categories: list[str] | None = None,
    missing: list[str] | None = None,
    separator: str = ",",
) -> Rows:
    """Rows of a .csv or .parquet file.

    Args:
        path: The training file.
        label: Name of the column that holds the class.
        test_path: A file with the columns that are not left out, kept as the test split.
        unlabeled_path: Likewise, without the label: the teachers label its rows for the student.
        drop: Columns to leave out (ids, leaks).
        categories: Columns of numbers that are codes, not quantities.
        missing: Further spellings of a missing cell, for instance "?".
        separator: Of the columns in a CSV.

    Raises:
        InputError: A file cannot be read, a column is not there or holds text in one file and numbers in another, or a
            label is missing.
    """
    frame = _read(path, missing, separator)
    named = [label, *(drop or []), *(categories or [])]
    _check_columns(frame, path, named)
    frame = frame[[c for c in frame.columns if c == label or c not in (drop or [])]]
    parts = [frame]
    for other, needed in ((test_path, list(frame.columns)), (unlabeled_path, [c for c in frame.columns if c != label])):
        if other is not None:
            part = _read(other, missing, separator)
            _check_columns(part, other, needed)
            _check_types(frame, part[[c for c in needed if c != label]], path, other)
            parts.append(part[needed])
    whole = pd.concat(parts, ignore_index=True)
    origin = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    given_test = None if test_path is None else origin == 1
    unlabeled = None if unlabeled_path is None else origin == len(parts) - 1
    for column in set(categories or []) & set(whole.columns):
        whole[column] = as_text(whole[column])
    labels = whole.pop(label)
    known = np.ones(len(whole), bool) if unlabeled is None else ~unlabeled
    _check_labels(labels[known], label, len(frame), path, test_path)
    _check_cells(whole, path)
    text = np.full(len(whole), "", dtype=object)
    text[known] = _label_text(labels[known])
    text = text.astype(str)
    if given_test is not None:
        unknown = set(text[given_test]) - set(text[origin == 0])
        if unknown:
            raise InputError(f"data: {test_path!r} holds classes that {path!r} lacks: {', '.join(sorted(unknown))}")
    digest = f"{table_digest(whole, text)}-{'-'.join(str(len(part)) for part in parts[:-1] or parts)}"
    return Rows("table", text, digest, given_test=given_test, unlabeled=unlabeled, frame=whole)


def _read(path: str, missing: list[str] | None, separator: str) -> pd.DataFrame:
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"data: expected a .csv or .parquet file, got {path!r}, which does not exist")
    try:
        if file.suffix in {".parquet", ".pq"}:
            frame = pd.read_parquet(file)
        else:
            frame = pd.read_csv(file, sep=separator, na_values=missing, skipinitialspace=True)
    except Exception as error:
        raise InputError(f"data: cannot read {path!r} as a table: {str(error).splitlines()[0]}") from error
    if not len(frame):
        raise InputError(f"data: expected rows in {path!r}, got an empty table")
    frame.columns = frame.columns.astype(str)
    for name in frame.columns:
        if not is_number(frame[name]):
            frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
    return frame


def _check_columns(frame: pd.DataFrame, path: str, needed: list[str]) -> None:
    for name in needed:
        if name not in frame.columns:
            raise InputError(f"data: expected a column {name!r} in {path!r}, got {', '.join(frame.columns)}")


def _check_types(frame: pd.DataFrame, other: pd.DataFrame, path: str, other_path: str) -> None:
    for name in other.columns:
        kinds = [_kind(column) for column in (frame[name], other[name])]
        if kinds[0] != kinds[1] and other[name].notna().any():
            raise InputError(
                f"data: column {name!r}: expected {kinds[0]} as in {path!r}, got {kinds[1]} in {other_path!r}"
            )


def _kind(column: pd.Series) -> str:
    if pd.api.types.is_bool_dtype(column):
        return "truth values"
    return "numbers" if is_number(column) else "text"


def _check_labels(labels: pd.Series, label: str, n_train: int, path: str, test_path: str | None) -> None:
    empty = np.flatnonzero(labels.isna().to_numpy())
    if len(empty):
        row = int(empty[0])
        where = (path, row) if row < n_train else (test_path, row - n_train)
        raise InputError(
            f"data: expected a class in column {label!r} of every row, got {len(empty)} missing, "
            f"the first in data row {where[1] + 1} of {where[0]!r}"
        )


def _check_cells(frame: pd.DataFrame, path: str) -> None:
    if not len(frame.columns):
        raise InputError(f"data: expected columns beside the label in {path!r}, got none")
    for name in frame.columns:
        if name == "label" or name.startswith("probability:"):
            raise InputError(
                f"data: the column name {name!r} is taken by the exported model's output, please rename it"
            )
        if is_number(frame[name]):
            bad = np.flatnonzero(np.isinf(frame[name].to_numpy(np.float64, na_value=np.nan)))
            if len(bad):
                raise InputError(
                    f"data: column {name!r}: expected finite numbers, got infinity in data row {bad[0] + 1}"
                )


def _label_text(labels: pd.Series) -> np.ndarray:
    if pd.api.types.is_float_dtype(labels) and (labels == labels.round()).all():
        labels = labels.astype(np.int64)
    return labels.astype(str).str.strip().to_numpy(dtype=str)
