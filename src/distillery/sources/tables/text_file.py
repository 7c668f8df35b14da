"""Tables in text files, a row a line: separators, encodings, quotation marks, rows of the wrong length."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from distillery.errors import InputError, first_line
from distillery.sources.tables.file_kinds import check_names, kind_of

SAMPLE = 1 << 18  # characters that are looked at before a text file is read
BLOCK = 1 << 24
FALLBACK = "cp1252"  # what Excel writes in the west of Europe and in America


@dataclass(frozen=True)
class Dialect:
    """How text files of tables are written.

    Attributes:
        separator: Of the columns; None: a tab in .tsv and .tab, else a comma.
        encoding: None: UTF-8, or UTF-16 with its mark, or else cp1252.
        header: Whether the first row names the columns; without, they are called 0, 1, 2 ...
    """

    separator: str | None = None
    encoding: str | None = None
    header: bool = True


class TextFile:
    """A text file with a row a line, read by the batch."""

    def __init__(self, path: str, file: Path, dialect: Dialect, what: str) -> None:
        self.path, self._file, self._what = path, file, what
        self.notes: list[str] = []
        self.index: list[str] = []
        self.rows: int | None = None
        self._read: pa.Table | None = None
        suffix = kind_of(file)
        self._separator = dialect.separator or ("\t" if suffix in (".tsv", ".tab") else ",")
        self._encoding = dialect.encoding or self._find_encoding()
        head = self._head()
        first = _first_rows(head, self._separator)
        if not first:
            raise InputError(f"{what}: cannot read {path!r} as a table: it is empty")
        self._skip = 1 if dialect.header else 0
        width = max((len(row) for row in first[1:3]), default=len(first[0]))
        self.names = [name.strip() for name in first[0]] if dialect.header else [str(n) for n in range(width)]
        check_names(path, self.names, what)
        # pyarrow knows neither separators of several characters nor blanks before a quotation mark.
        spaced = re.search(re.escape(self._separator) + r' +"', head) is not None
        self._simple = len(self._separator) == 1 and not spaced
        # Some programs end every row, but not the header, with a separator.
        ends = [row for row in first[1:] if len(row) == len(self.names) + 1 and not row[-1].strip()]
        self._trailing = bool(ends) and len(ends) == len(first) - 1

    def batches(self, size: int) -> Iterator[pd.DataFrame]:
        """The rows, at least one at a time."""
        if not self._simple:
            yield from self._by_pandas(size)
            return
        for batch in self._by_pyarrow():
            frame = batch.to_pandas()
            for start in range(0, len(frame), size):
                yield frame.iloc[start : start + size].reset_index(drop=True)

    def column(self, name: str) -> pd.Series:
        """One column, whole."""
        if self._read is None:
            self._read = self._whole()
        return self._read.column(name).to_pandas()

    def _whole(self) -> pa.Table:
        """All rows, in Arrow's memory, where text takes a fraction of what Python's objects take."""
        schema = pa.schema([(name, pa.string()) for name in self.names])
        if self._simple:
            return pa.Table.from_batches(self._by_pyarrow(), schema)
        frames = self._by_pandas(1 << 16)
        return pa.Table.from_batches(
            (pa.RecordBatch.from_pandas(f, schema, preserve_index=False) for f in frames), schema
        )

    def _by_pyarrow(self) -> Iterator[pa.RecordBatch]:
        names = [*self.names, "\0"] if self._trailing else self.names
        wrong: list[pa.csv.InvalidRow] = []

        def invalid(row: pa.csv.InvalidRow) -> str:
            if row.number == self._skip and self._trailing:
                return "skip"  # the header, which is shorter
            wrong.append(row)
            return "error"

        options: dict[str, object] = {
            "read_options": pa.csv.ReadOptions(
                column_names=names,
                skip_rows_after_names=0 if self._trailing else self._skip,
                use_threads=False,
                block_size=BLOCK,
                encoding=self._encoding,
            ),
            "parse_options": pa.csv.ParseOptions(
                delimiter=self._separator, newlines_in_values=True, invalid_row_handler=invalid
            ),
            "convert_options": pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
            ),
        }
        before = 0
        try:
            with fsspec.open(str(self._file), "rb", compression="infer") as stream:
                for batch in pa.csv.open_csv(stream, **options):
                    if self._trailing:
                        self._check_trailing(batch.column(len(self.names)), before)
                        batch = batch.select(self.names)
                    before += batch.num_rows
                    if batch.num_rows:
                        yield batch
        except pa.ArrowInvalid as error:
            if wrong:
                raise self._ragged(wrong[0].number - self._skip, len(names), wrong[0].actual_columns) from error
            raise self._unreadable(error) from error
        except (UnicodeError, OSError, EOFError) as error:
            raise self._unreadable(error) from error
        if self._trailing:
            note = (
                f"{self.path!r}: every row ends with a separator that the header lacks: the empty column was left out"
            )
            self.notes.append(note)

    def _by_pandas(self, size: int) -> Iterator[pd.DataFrame]:
        separator = self._separator
        options: dict[str, object] = {
            "sep": separator,
            "dtype": str,
            "keep_default_na": False,
            "na_values": [""],
            "skipinitialspace": True,
            "chunksize": size,
            "index_col": False,
            "names": self.names,
            "skiprows": self._skip,
            "engine": "c" if len(separator) == 1 else "python",
            "encoding": self._encoding,
        }
        try:
            with fsspec.open(str(self._file), "rb", compression="infer") as stream:
                for frame in pd.read_csv(stream, **options):
                    yield frame.astype(object).where(frame.notna(), None).reset_index(drop=True)
        except (pd.errors.ParserError, UnicodeError, OSError, EOFError) as error:
            raise self._unreadable(error) from error

    def _check_trailing(self, extra: pa.Array, before: int) -> None:
        for row, cell in enumerate(extra.to_pylist()):
            if cell is not None and cell.strip():
                raise self._ragged(before + row + 1, len(self.names), len(self.names) + 1)

    def _ragged(self, row: int, expected: int, got: int) -> InputError:
        hint = ""
        if got == expected + 1 and row == 1:
            hint = "; if the first field is the name of the row, give it a name in the header"
        elif got > expected:
            hint = "; a text that holds the separator needs quotation marks"
        return InputError(
            f"{self._what}: {self.path!r}: expected {expected} fields as in the first line, got {got} in data row "
            f"{row}{hint}"
        )

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(f"{self._what}: cannot read {self.path!r} as a table: {first_line(error)}")

    def _head(self) -> str:
        try:
            with fsspec.open(str(self._file), "rt", encoding=self._encoding, compression="infer", newline="") as stream:
                text: str = stream.read(SAMPLE)
        except LookupError as error:
            raise InputError(f"{self._what}.encoding: expected a name such as utf-8, got {self._encoding!r}") from error
        except UnicodeError as error:
            raise InputError(
                f"{self._what}: {self.path!r} is not written in {self._encoding}: set data.encoding to what it is in"
            ) from error
        if "\0" in text:
            raise InputError(
                f"{self._what}: {self.path!r} does not look like text in {self._encoding}: set data.encoding, for "
                "instance to utf-16-le"
            )
        return text.removeprefix("\ufeff")

    def _find_encoding(self) -> str:
        with fsspec.open(str(self._file), "rb", compression="infer") as stream:
            start = stream.read(4)
        if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        if self._decodes("utf-8"):
            return "utf-8"
        if self._decodes(FALLBACK):
            self.notes.append(f"{self.path!r} is not UTF-8 and was read as {FALLBACK}; set data.encoding if it is not")
            return FALLBACK
        raise InputError(
            f"{self._what}: {self.path!r} is neither UTF-8 nor {FALLBACK}: set data.encoding to what it is in, for "
            "instance latin-1, shift_jis or gb18030"
        )

    def _decodes(self, encoding: str) -> bool:
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            with fsspec.open(str(self._file), "rb", compression="infer") as stream:
                while block := stream.read(BLOCK):
                    decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
        return True


def _first_rows(head: str, separator: str) -> list[list[str]]:
    """Some rows of a text, perhaps without the last, which the sample may have cut."""
    if len(separator) > 1:
        lines = [line for line in head.splitlines() if line.strip()]
        return [re.split(separator, line.strip()) for line in lines[:1000]]
    rows = csv.reader(io.StringIO(head, newline=""), delimiter=separator, skipinitialspace=True)
    complete = []
    try:
        for row in rows:
            if row:
                complete.append(row)
    except csv.Error:
        pass  # a field longer than the sample: what came before is enough
    return complete[:-1] if len(head) >= SAMPLE and len(complete) > 1 else complete
