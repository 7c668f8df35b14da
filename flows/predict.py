"""Raw rows through an exported student, batch by batch: tables by column name, images from files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from distillery.data import as_text, is_number, table_feeds
from distillery.errors import InputError
from distillery.export import classes_of, columns_of, probabilities
from flows.predict_images import OnRows, Unread, predict_images

BATCH = 8192
TABLES = (".csv", ".parquet", ".pq")


def predict_file(
    running: ort.InferenceSession,
    file: Path,
    keep: Sequence[str] = (),
    on_rows: OnRows | None = None,
    unread: Unread | None = None,
) -> Iterator[pd.DataFrame]:
    """Batches of a row per input row: `keep`, ``label``, and a probability per class; for images see `predict_images`.

    Args:
        running: The model.
        file: A table, an image, or a folder of images.
        keep: Columns of the table that the model does not take, to be handed through.
        on_rows: Told after every batch.
        unread: Told of images that cannot be read, and of files in a folder that are no images.

    Raises:
        InputError: The file cannot be read, or its rows are not what the model takes.
    """
    if not file.exists():
        raise InputError(f"predict: expected a table, an image or a folder, got {str(file)!r}, which does not exist")
    columns, done = columns_of(running), 0
    if not columns:
        if keep:
            raise InputError("predict: --keep names columns of a table, but this model takes images")
        yield from predict_images(running, file, on_rows, unread)
        return
    batches = _Table(file, columns, keep).batches()
    for shown, feeds, total in batches:
        probs, classes = probabilities(running, feeds), classes_of(running)
        shown["label"] = np.array(classes, dtype=object)[probs.argmax(1)]
        yield pd.concat([shown, pd.DataFrame(probs, shown.index, [f"probability:{c}" for c in classes])], axis=1)
        done += len(shown)
        if on_rows is not None:
            on_rows(done, total)
    if not done:
        raise InputError(f"predict: expected rows in {str(file)!r}, got none")


def write(batches: Iterator[pd.DataFrame], out: Path | None, show: Callable[[str], object]) -> None:
    """Writes the batches to a .csv or .parquet file as they come, or shows them as CSV.

    Raises:
        InputError: The file's name has another ending.
    """
    if out is not None and out.suffix not in TABLES:
        raise InputError(f"--out: expected a .csv or .parquet file, got {str(out)!r}")
    with ExitStack() as opened:
        text = opened.enter_context(out.open("w")) if out is not None and out.suffix == ".csv" else nullcontext()
        parquet: Any = None
        for number, batch in enumerate(batches):
            if out is not None and out.suffix != ".csv":
                rows = pa.Table.from_pandas(batch, preserve_index=False)
                parquet = parquet or opened.enter_context(pq.ParquetWriter(out, rows.schema))
                parquet.write_table(rows)
                continue
            lines = batch.to_csv(index=False, header=number == 0)
            show(lines) if out is None else text.write(lines)  # type: ignore[union-attr]


class _Table:
    """A .csv or .parquet file, read by the batch."""

    def __init__(self, file: Path, columns: dict[str, bool], keep: Sequence[str]) -> None:
        if file.suffix not in TABLES:
            raise InputError(f"predict: this model takes the rows of a .csv or .parquet file, got {str(file)!r}")
        self.file, self.columns, self.keep = file, columns, list(keep)
        self.parquet: Any = None
        try:
            if file.suffix == ".csv":
                names = [str(c) for c in pd.read_csv(file, skipinitialspace=True, nrows=0).columns]
            else:
                self.parquet = pq.ParquetFile(file)
                names = self.parquet.schema_arrow.names
        except Exception as error:
            raise InputError(f"predict: cannot read {str(file)!r}: {str(error).splitlines()[0]}") from error
        self._check(names)

    def _check(self, names: list[str]) -> None:
        missing = [name for name in (*self.columns, *self.keep) if name not in names]
        if missing:
            wanted = ", ".join(self.columns)
            raise InputError(f"predict: expected the columns {wanted}, got none called {', '.join(missing)}")
        extra = [name for name in names if name not in self.columns and name not in self.keep]
        if extra:
            raise InputError(
                f"predict: {str(self.file)!r} holds columns that the model does not take: {', '.join(extra)}; "
                "hand them through with --keep, or leave them out"
            )

    def batches(self) -> Iterator[tuple[pd.DataFrame, Any, int | None]]:
        """(kept columns, what the model is fed, number of rows if that is known)."""
        total, first = (None if self.parquet is None else self.parquet.metadata.num_rows), 1
        for frame in self._frames():
            feeds = table_feeds(pd.DataFrame({name: self._column(frame, name, first) for name in self.columns}))
            yield frame[self.keep].reset_index(drop=True), feeds, total
            first += len(frame)

    def _frames(self) -> Iterator[pd.DataFrame]:
        names = [*self.columns, *self.keep]
        if self.parquet is not None:
            yield from (batch.to_pandas() for batch in self.parquet.iter_batches(BATCH, columns=names))
            return
        texts: Any = {name: str for name in names if not self.columns.get(name, False)}
        options: dict[str, Any] = {"skipinitialspace": True, "dtype": texts, "chunksize": BATCH}
        try:
            yield from pd.read_csv(self.file, **options)
        except (pd.errors.ParserError, UnicodeDecodeError) as error:
            raise InputError(f"predict: cannot read {str(self.file)!r}: {str(error).splitlines()[0]}") from error

    def _column(self, frame: pd.DataFrame, name: str, first: int) -> pd.Series:
        column = frame[name]
        if not self.columns[name]:
            return as_text(column)
        if is_number(column):
            return column
        numbers = pd.to_numeric(column, errors="coerce")
        bad = np.flatnonzero((numbers.isna() & column.notna()).to_numpy())
        if len(bad):
            raise InputError(
                f"predict: column {name!r}: expected numbers, got {column.iloc[bad[0]]!r} in row {first + bad[0]}"
            )
        return numbers
