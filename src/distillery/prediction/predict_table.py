"""Raw rows through an exported student, batch by batch: tables by column name, images from files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import onnxruntime as ort
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from distillery.errors import InputError
from distillery.prediction.predict_images import OnRows, Unread, predict_images
from distillery.serving.answers import LABEL, PROBABILITY, Answers
from distillery.serving.cells import CellError
from distillery.serving.reading import Feeds
from distillery.sources.tables.file_kinds import is_table
from distillery.sources.tables.files import guess_separator, open_table
from distillery.sources.tables.text_file import Dialect

BATCH = 8192
OUTPUTS = (".csv", ".parquet", ".pq")


def predict_file(
    running: ort.InferenceSession,
    file: Path,
    keep: Sequence[str] = (),
    on_rows: OnRows | None = None,
    unread: Unread | None = None,
) -> Iterator[pd.DataFrame]:
    """Batches of a row per input row: `keep`, ``label``, and a probability per class; for images see `predict_images`.

    A kept column that is called like one of the answers is handed through as ``input:<name>``.

    Args:
        running: The model.
        file: A table, an image, or a folder of images.
        keep: Columns of the table to be handed through.
        on_rows: Told after every batch.
        unread: Told of images that cannot be read, and of files in a folder that are no images.

    Raises:
        InputError: The file cannot be read, or its rows are not what the model takes.
    """
    if not file.exists():
        raise InputError(f"predict: expected a table, an image or a folder, got {str(file)!r}, which does not exist")
    answers, done = Answers(running), 0
    if not answers.is_table:
        if keep:
            raise InputError("predict: --keep names columns of a table, but this model takes images")
        yield from predict_images(running, file, on_rows, unread)
        return
    for shown, feeds, total in _table(answers, file, keep):
        predicted = answers.of_feeds(feeds, shown.index)
        yield pd.concat([shown, predicted], axis=1)
        done += len(shown)
        if on_rows is not None:
            on_rows(done, total)
    if not done:
        raise InputError(f"predict: expected rows in {str(file)!r}, got none")


def write(batches: Iterator[pd.DataFrame], out: Path | None, show: Callable[[str], object]) -> None:
    """Writes the batches to a .csv or .parquet file, or shows them as CSV as they come.

    The file has its name when it is complete, and not before.

    Raises:
        InputError: The file's name has another ending, or its folder does not exist.
    """
    if out is None:
        for number, batch in enumerate(batches):
            show(batch.to_csv(index=False, header=number == 0))
        return
    if out.suffix.lower() not in OUTPUTS:
        raise InputError(f"--out: expected a .csv or .parquet file, got {str(out)!r}")
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out: expected a file in a folder that exists, got {str(out)!r}")
    growing = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        if out.suffix.lower() == ".csv":
            _write_csv(batches, growing)
        else:
            _write_parquet(batches, growing)
        growing.replace(out)
    finally:
        growing.unlink(missing_ok=True)


def _write_csv(batches: Iterator[pd.DataFrame], file: Path) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        for number, batch in enumerate(batches):
            stream.write(batch.to_csv(index=False, header=number == 0))


def _write_parquet(batches: Iterator[pd.DataFrame], file: Path) -> None:
    with ExitStack() as opened:
        writer: pq.ParquetWriter | None = None
        for batch in batches:
            if writer is None:
                inferred = pa.Schema.from_pandas(batch, preserve_index=False)
                # A first batch that holds nothing does not say what the next ones hold: text, in a text file.
                fields = [f.with_type(pa.string()) if pa.types.is_null(f.type) else f for f in inferred]
                schema = pa.schema(fields)
                writer = opened.enter_context(pq.ParquetWriter(file, schema))
            writer.write_table(pa.Table.from_pandas(batch, schema, preserve_index=False))


def _table(answers: Answers, file: Path, keep: Sequence[str]) -> Iterator[tuple[pd.DataFrame, Feeds, int | None]]:
    """(kept columns, what the model is fed, number of rows if that is known), batch by batch."""
    if not is_table(file):
        raise InputError(f"predict: this model takes the rows of a table, such as .csv or .parquet, got {str(file)!r}")
    reading = answers.reading
    table = open_table(str(file), Dialect(reading.separator, reading.encoding, reading.header), "predict")
    _check_names(answers, table.names, table.index, keep, file)
    shown = {name: f"input:{name}" for name in keep if name == LABEL or name.startswith(PROBABILITY)}
    first = 1
    for frame in table.batches(BATCH):
        try:
            feeds = reading.feeds(frame)
        except CellError as error:
            raise InputError(f"predict: {error.message(first)} of {str(file)!r}") from error
        yield frame[list(keep)].rename(columns=shown), feeds, table.rows
        first += len(frame)


def _check_names(answers: Answers, names: Sequence[str], index: Sequence[str], keep: Sequence[str], file: Path) -> None:
    reading = answers.reading
    wanted = [*reading.names, *keep]
    missing = [name for name in wanted if name not in names]
    if missing:
        mark = guess_separator(list(names))
        hint = f"; the file looks separated by {mark!r}, the training file was by {reading.separator or ','!r}"
        raise InputError(
            f"predict: expected the columns {_listed(reading.names)} in {str(file)!r}, got none called "
            f"{_listed(missing)}{hint if mark else ''}"
        )
    expected = {*wanted, *index, *reading.left_out, reading.label}
    extra = [name for name in names if name not in expected]
    if extra:
        raise InputError(
            f"predict: {str(file)!r} holds columns that the model does not take: {_listed(extra)}; "
            "hand them through with --keep, or leave them out"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name if name == name.strip() and name else repr(name) for name in names)
