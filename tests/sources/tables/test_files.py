"""Tables in files of every kind: read as they stand, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from distillery.errors import InputError
from distillery.sources.tables.files import Table, open_table
from distillery.sources.tables.text_file import Dialect

FRAME = pd.DataFrame({"size": ["1.50", None, "007"], "city": ["Zürich", 'a "b", c', "two\nlines"]})

WRITTEN: dict[str, tuple[Callable[[Path], Any], Dialect]] = {
    "rows.csv": (lambda p: FRAME.to_csv(p, index=False), Dialect()),
    "rows.TSV": (lambda p: FRAME.to_csv(p, index=False, sep="\t"), Dialect()),
    "semicolons.csv": (lambda p: FRAME.to_csv(p, index=False, sep=";"), Dialect(separator=";")),
    "marked.csv": (lambda p: FRAME.to_csv(p, index=False, encoding="utf-8-sig"), Dialect()),
    "wide.csv": (lambda p: FRAME.to_csv(p, index=False, encoding="utf-16"), Dialect()),
    "west.csv": (lambda p: FRAME.to_csv(p, index=False, encoding="cp1252"), Dialect()),
    "named.csv": (lambda p: FRAME.to_csv(p, index=False, encoding="cp850"), Dialect(encoding="cp850")),
    "rows.csv.gz": (lambda p: FRAME.to_csv(p, index=False), Dialect()),
    "rows.csv.bz2": (lambda p: FRAME.to_csv(p, index=False), Dialect()),
    "rows.csv.xz": (lambda p: FRAME.to_csv(p, index=False), Dialect()),
    "rows.csv.zip": (lambda p: FRAME.to_csv(p, index=False), Dialect()),
    "spaced.csv": (
        lambda p: p.write_text(' size, city \n1.50, Zürich\n, "a ""b"", c"\n007, "two\nlines"\n'),
        Dialect(),
    ),
    "ended.csv": (
        lambda p: p.write_text('size,city\n1.50,Zürich,\n,"a ""b"", c",\n007,"two\nlines",\n'),
        Dialect(),
    ),
    "dos.csv": (lambda p: FRAME.to_csv(p, index=False, lineterminator="\r\n"), Dialect()),
    "headless.csv": (lambda p: FRAME.to_csv(p, index=False, header=False), Dialect(header=False)),
    "rows.jsonl": (lambda p: FRAME.to_json(p, orient="records", lines=True), Dialect()),
    "rows.json": (lambda p: FRAME.to_json(p, orient="records"), Dialect()),
    "rows.parquet": (lambda p: FRAME.to_parquet(p), Dialect()),
    "folder": (lambda p: FRAME.assign(part=[1, 1, 2]).to_parquet(p, partition_cols=["part"]), Dialect()),
}


def whole(table: Table) -> pd.DataFrame:
    """The table's columns, one by one."""
    return pd.DataFrame({name: table.column(name) for name in table.names})


@pytest.mark.parametrize("name", WRITTEN)
def test_cells_are_as_they_were_written(tmp_path: Path, name: str) -> None:
    """reference: the frame that was written, whole and by the batch; text keeps its zeros, nothing is None."""
    write, dialect = WRITTEN[name]
    write(tmp_path / name)
    table = open_table(str(tmp_path / name), dialect)
    names = ["0", "1"] if name == "headless.csv" else ["size", "city"]
    batches = pd.concat(table.batches(2), ignore_index=True)
    for found in (whole(table), batches):
        assert [n for n in table.names if n != "part"] == names
        cells = found[names].astype(object).where(found[names].notna(), None)
        assert cells.to_numpy().tolist() == FRAME.to_numpy().tolist()
    assert table.rows in (3, None)


def test_what_was_found_out_about_a_file_is_told(tmp_path: Path) -> None:
    """contract: a guessed encoding, and separators behind every row."""
    FRAME.to_csv(tmp_path / "west.csv", index=False, encoding="cp1252")
    assert "was read as cp1252; set data.encoding" in open_table(str(tmp_path / "west.csv"), Dialect()).notes[0]
    (tmp_path / "ended.csv").write_text("a,b\n1,2,\n3,4,\n")
    table = open_table(str(tmp_path / "ended.csv"), Dialect())
    assert whole(table).to_numpy().tolist() == [["1", "2"], ["3", "4"]]
    assert "every row ends with a separator that the header lacks" in table.notes[0]


def test_an_index_that_pandas_stored_is_known(tmp_path: Path) -> None:
    """contract: with a name or without one; it can be read like any column."""
    FRAME.set_index(pd.Index([5, 6, 9], name="id")).to_parquet(tmp_path / "named.parquet")
    named = open_table(str(tmp_path / "named.parquet"), Dialect())
    assert named.index == ["id"] and named.column("id").tolist() == [5, 6, 9]
    FRAME.set_index(np.array([5, 6, 9])).to_parquet(tmp_path / "plain.parquet")
    assert open_table(str(tmp_path / "plain.parquet"), Dialect()).index == ["__index_level_0__"]


REFUSED: dict[str, tuple[str, bytes, Dialect, str]] = {
    "nothing": ("a.csv", b"", Dialect(), "cannot read .* it is empty"),
    "more fields": (
        "a.csv",
        b"a,b\n1,2\n1,2,3\n",
        Dialect(),
        "expected 2 fields as in the first line, got 3 in data row 2",
    ),
    "fewer fields": (
        "a.csv",
        b"a,b\n1,2\n3\n",
        Dialect(),
        "expected 2 fields as in the first line, got 1 in data row 2",
    ),
    "names of rows": (
        "a.csv",
        b"a,b\nr1,1,2\nr2,1,2\n",
        Dialect(),
        "got 3 in data row 1; if the first field is the name",
    ),
    "more behind": (
        "a.csv",
        b"a,b\n1,2,\n1,2,\n" + b"1,2,\n" * 60000 + b"1,2,3\n",
        Dialect(),
        "got 3 in data row 60003",
    ),
    "two of a name": ("a.csv", b"a, a\n1,2\n", Dialect(), "'a' as columns 1 and 2; rename or remove one"),
    "zeros": ("a.csv", "a,b\n1,2\n".encode("utf-16-le"), Dialect(), "set data.encoding, for instance to utf-16-le"),
    "bytes": ("a.csv", b"a,b\n\x81\x8d,2\n", Dialect(), "neither UTF-8 nor cp1252: set data.encoding"),
    "another encoding": (
        "a.csv",
        b"a,b\n\xe9,2\n",
        Dialect(encoding="utf-8"),
        "not written in utf-8: set data.encoding",
    ),
    "no encoding": ("a.csv", b"a,b\n1,2\n", Dialect(encoding="utf-99"), "a name such as utf-8, got 'utf-99'"),
    "a workbook": ("a.xlsx", b"PK", Dialect(), "is a spreadsheet: save the sheet as CSV"),
    "another kind": ("a.pdf", b"%PDF", Dialect(), "expected a .csv, .tsv, .jsonl or .parquet file"),
    "no parquet": ("a.parquet", b"PAR0", Dialect(), "cannot read .*a.parquet' as a table"),
    "half a file": ("a.csv.gz", b"\x1f\x8b\x08\x00", Dialect(), "cannot read .*a.csv.gz' as a table"),
    "no json": ("a.jsonl", b'{"a": 1}\n{"a"', Dialect(), "cannot read .*a.jsonl' as a table"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_cannot_be_read(tmp_path: Path, case: str) -> None:
    """contract: one line that names the file, and the row or what to do."""
    name, content, dialect, message = REFUSED[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        whole(open_table(str(tmp_path / name), dialect))
    assert "\n" not in str(caught.value)
    assert case == "no encoding" or name in str(caught.value)


def test_folders_without_tables(tmp_path: Path) -> None:
    """contract: a folder is called one."""
    with pytest.raises(InputError, match=r"got the folder .* without any \.parquet file"):
        open_table(str(tmp_path), Dialect())
    with pytest.raises(InputError, match="which does not exist"):
        open_table(str(tmp_path / "gone.csv"), Dialect())
