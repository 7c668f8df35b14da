"""Tables in files: numbers, categories, truth values, times, missing values, text labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from distillery.errors import InputError
from distillery.registry import nearest_first
from distillery.serving.cells import Column
from distillery.serving.reading import Reading
from distillery.sources import SOURCES, Rows
from distillery.sources.sklearn_tables import table_digest
from distillery.sources.tables.codes import Declared, Part
from distillery.sources.tables.columns import learn_column, read_part
from distillery.sources.tables.file_kinds import kind_of
from distillery.sources.tables.files import Table, guess_separator, open_table
from distillery.sources.tables.labels import read_labels
from distillery.sources.tables.suspicions import about_columns, may_be_index, numbers_rows
from distillery.sources.tables.text_file import Dialect
from distillery.store import fingerprint

SHOWN_COLUMNS = 10  # in a message; a table may have thousands


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
    separator: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    header: bool = True,
) -> Rows:
    """Rows of a CSV, JSON-lines or Parquet file, perhaps compressed, or of a folder of Parquet files.

    Args:
        path: The training file.
        label: Name of the column that holds the class.
        test_path: A file with the columns that are not left out, kept as the test split.
        unlabeled_path: Likewise, without the label: the teachers label its rows for the student.
        drop: Columns to leave out (ids, leaks).
        categories: Columns of numbers that are codes, not quantities.
        missing: Further spellings of a missing cell, for instance "?".
        separator: Of the columns in a text file; by default a tab in .tsv, else a comma.
        decimal: The decimal mark, where the cells alone do not tell.
        encoding: Of text files; by default UTF-8, UTF-16 with its mark, or else cp1252.
        header: Whether the first row holds the names of the columns; without, they are 0, 1, 2 ...

    Raises:
        InputError: A file cannot be read, a column is not there or holds something else in one file than in another,
            or a label is missing.
    """
    dialect = Dialect(separator, encoding, header)
    by_comma = separator in (None, ",") and kind_of(Path(path)) == ".csv"
    declared = Declared(frozenset(categories or []), tuple(map(str, missing or [])), decimal, by_comma)
    files = _Files(path, test_path, unlabeled_path, label, dialect)
    files.check(drop or [], categories or [])
    labels = files.labels(declared)
    used = _read(files, drop or [], declared)
    training = files.origin == 0
    notes = [*files.notes, *used.notes]
    if "None" in labels[training]:
        notes.append(f"column {label!r}: None is taken for a class; name it in data.missing if it stands for none")
    notes += about_columns(used.frame[training], used.columns, labels[training])
    reading = Reading(tuple(used.columns), declared.missing, label, tuple(used.left_out), separator, encoding, header)
    counts = files.counts[:-1] or files.counts
    digest = f"{table_digest(used.frame, labels)}-{'-'.join(map(str, counts))}"
    return Rows(
        "table",
        labels,
        fingerprint(digest, reading.to_json()),
        given_test=files.origin == 1 if test_path is not None else None,
        unlabeled=files.origin == len(files.tables) - 1 if unlabeled_path is not None else None,
        frame=used.frame,
        reading=reading,
        raw=lambda: _raw(_Files(path, test_path, unlabeled_path, label, dialect), used),
        notes=tuple(notes),
    )


class _Files:
    """The files of a table, column by column: training, perhaps test, perhaps rows without a label."""

    def __init__(self, path: str, test: str | None, unlabeled: str | None, label: str, dialect: Dialect) -> None:
        paths = [other for other in (path, test, unlabeled) if other is not None]
        self.tables = [open_table(other, dialect) for other in paths]
        self.label = label
        self._has_test = test is not None
        self._labelled = self.tables if unlabeled is None else self.tables[:-1]

    def check(self, drop: Sequence[str], categories: Sequence[str]) -> None:
        """Refuses files without rows, and columns that are named but not there."""
        training = self.tables[0]
        if self.label in training.index:
            raise InputError(f"data: the label {self.label!r} is the index of {training.path!r}: store it as a column")
        _check_columns(training, [self.label, *drop, *categories])
        for table in self._labelled[1:]:
            _check_columns(table, [self.label])
        for table, rows in zip(self.tables, self.counts, strict=True):
            if not rows:
                raise InputError(f"data: expected rows in {table.path!r}, got an empty table")

    @cached_property
    def counts(self) -> list[int]:
        """Rows of each file."""
        return [len(table.column(table.names[0])) for table in self.tables]

    @cached_property
    def origin(self) -> np.ndarray:
        """The number of the file that each row is in [N]."""
        return np.repeat(np.arange(len(self.tables)), self.counts)

    @property
    def notes(self) -> list[str]:
        """What was found out about the files."""
        return [note for table in self.tables for note in table.notes]

    def take(self, name: str) -> list[Part]:
        """One column in every file."""
        for table in self.tables[1:]:
            _check_columns(table, [name])
        return [Part(table.path, table.column(name)) for table in self.tables]

    def labels(self, declared: Declared) -> np.ndarray:
        """The class of each row, "" where it has none [N]."""
        parts = [Part(table.path, table.column(self.label)) for table in self._labelled]
        labels = read_labels(self.label, parts, declared)
        if self._has_test:
            unknown = sorted(set(labels[1]) - set(labels[0]))
            if unknown:
                raise InputError(
                    f"data: {parts[1].path!r} holds classes that {parts[0].path!r} lacks: {', '.join(unknown)}"
                )
        missing = sum(self.counts) - sum(map(len, labels))
        return np.concatenate([*labels, np.full(missing, "", dtype="U1")])


@dataclass
class _Used:
    """The columns that the models are given, and what there is to say of them and of the others."""

    columns: list[Column]
    frame: pd.DataFrame
    left_out: list[str]
    notes: list[str]


def _read(files: _Files, drop: Sequence[str], declared: Declared) -> _Used:
    """Every column that is used: learned over all files, then read in each."""
    training = files.tables[0]
    used = _Used([], pd.DataFrame(), list(drop), [])
    cells = {}
    for name in training.names:
        if name == files.label or name in drop:
            continue
        why = _why_left_out(name, training)
        if why:
            used.left_out.append(name)
            if not name.startswith("__index_level_"):  # an index without a name
                used.notes.append(f"column {name!r} {why} of {training.path!r} and was left out")
            continue
        parts = files.take(name)
        learned = learn_column(name, parts, declared)
        used.columns.append(learned.column)
        used.notes += learned.notes
        cells[name] = np.concatenate([read_part(learned.column, part, declared.missing) for part in parts])
    if not cells:
        raise InputError(f"data: expected columns beside the label in {training.path!r}, got none")
    _check_free(used.columns)
    used.frame = pd.DataFrame(cells)
    return used


def _why_left_out(name: str, training: Table) -> str:
    if name in training.index:
        return "is the index"
    numbered = may_be_index(name) and numbers_rows(training.column(name))
    return "numbers the rows" if numbered else ""


def _check_free(columns: Sequence[Column]) -> None:
    for column in columns:
        if column.name == "label" or column.name.startswith("probability:"):
            raise InputError(
                f"data: the column name {column.name!r} is taken by the exported model's output, please rename it"
            )


def _check_columns(table: Table, needed: Sequence[str]) -> None:
    for name in needed:
        if name not in table.names:
            mark = guess_separator(table.names)
            hint = f"; it looks separated by {mark!r}: set data.separator" if mark else ""
            shown = nearest_first(name, table.names)[:SHOWN_COLUMNS]
            got = ", ".join(map(repr, shown))
            if len(table.names) > SHOWN_COLUMNS:
                got += f", ... ({len(table.names)} in all)"
            raise InputError(f"data: expected a column {name!r} in {table.path!r}, got {got}{hint}")


def _raw(files: _Files, used: _Used) -> pd.DataFrame:
    """The rows as other programs read them: whole numbers and truth values by their types, times as they stand."""
    frame = used.frame.copy()
    for column in used.columns:
        values = frame[column.name]
        complete = values.notna().all()
        if column.kind == "time":
            frame[column.name] = np.concatenate([part.cells.to_numpy(object) for part in files.take(column.name)])
        elif column.kind == "truth":
            frame[column.name] = values.astype(bool) if complete else values.map({1.0: True, 0.0: False})
        elif column.kind == "number" and complete and (values == values.round()).all():
            frame[column.name] = values.astype(np.int64)
    return frame
