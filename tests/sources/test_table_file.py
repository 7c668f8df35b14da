"""Tables in several files: which rows belong where, and which columns must match."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distillery.errors import InputError
from distillery.sources import SOURCES


def write(path: Path, text: str) -> str:
    """A file of this text."""
    path.write_text(text)
    return str(path)


TRAIN_CSV = "id,size,colour,kind\n" + "".join(f"{i},{i / 2},{'rb'[i % 2]},{i % 3}\n" for i in range(12))


@pytest.mark.parametrize("with_test", [False, True])
def test_unlabelled_rows_come_last(tmp_path: Path, with_test: bool) -> None:
    """contract: rows of the unlabelled file follow all others and are marked; its label column, if any, is not read.

    Classes are spelt as without it, and its columns may stand in any order beside others.
    """
    paths = {"path": write(tmp_path / "a.csv", TRAIN_CSV)}
    if with_test:
        paths["test_path"] = write(tmp_path / "t.csv", "id,size,colour,kind\n1,2,r,0\n2,3,b,2\n")
    before = SOURCES["table"](label="kind", **paths)
    found = {}
    for name, text in {
        "without": "extra,colour,size,id\nx,b,7.5,1\nx,,,2\n",
        "empty": "kind,size,colour,id\n,7.5,b,1\n,,,2\n",
        "strange": "id,size,colour,kind\n1,7.5,b,other\n2,,,0\n",
    }.items():
        rows = SOURCES["table"](label="kind", **paths, unlabeled_path=write(tmp_path / f"{name}.csv", text))
        known = len(before)
        assert rows.unlabeled is not None and rows.unlabeled.tolist() == [False] * known + [True] * 2
        assert rows.labels.tolist() == [*before.labels, "", ""] and set(before.labels) == {"0", "1", "2"}
        if with_test:
            assert rows.given_test.tolist() == [*before.given_test, False, False]
        else:
            assert rows.given_test is None
        feeds = rows.feed(np.arange(len(rows)))
        assert list(feeds) == ["id", "size", "colour"]
        assert feeds["colour"][-2:].tolist() == ["b", ""]
        np.testing.assert_array_equal(feeds["size"][-2:], [7.5, np.nan])
        for column, values in before.feed(np.arange(known)).items():
            assert np.array_equal(feeds[column][:known], values)
        found[name] = rows.digest
    assert len(set(found.values())) == 1 and before.digest not in found.values()


def test_the_same_rows_are_told_apart_by_their_part(tmp_path: Path) -> None:
    """property: the digest says in which file a row was: as a test row, without a label, or for training."""
    first, second = TRAIN_CSV, "id,size,colour,kind\n1,2,r,0\n2,3,b,2\n"
    a, b = write(tmp_path / "a.csv", first), write(tmp_path / "b.csv", second)
    both = write(tmp_path / "c.csv", first + second.split("\n", 1)[1])
    options = [{"path": both}, {"path": a, "test_path": b}, {"path": a, "unlabeled_path": b}]
    assert len({SOURCES["table"](label="kind", **o).digest for o in options}) == 3


def test_dropped_columns_need_not_be_in_other_files(tmp_path: Path) -> None:
    """property: only columns that are used must be in the test file and the unlabelled one, and be of one type."""
    paths = {
        "path": write(tmp_path / "a.csv", TRAIN_CSV),
        "test_path": write(tmp_path / "t.csv", "size,colour,kind\n1,r,0\n"),
        "unlabeled_path": write(tmp_path / "u.csv", "id,size,colour\nnone,1,r\n"),
    }
    rows = SOURCES["table"](label="kind", drop=["id"], **paths)
    assert list(rows.frame.columns) == ["size", "colour"] and len(rows) == 14
    codes = SOURCES["table"](label="kind", drop=["id"], categories=["id", "size"], **paths)
    assert list(codes.frame.columns) == ["size", "colour"] and codes.feed(np.array([3]))["size"].tolist() == ["1.5"]


OTHER_COLUMNS = {
    "missing": ("id,colour\n1,r\n", r"expected a column 'size' in '.*b\.csv', got 'id', 'colour'"),
    "text": (
        "id,size,colour\n1,tall,r\n",
        r"column 'size': expected numbers as in '.*a\.csv', got 'tall' in data row 1 of '.*b\.csv'",
    ),
    "truth": (
        "id,size,colour\n1,True,r\n",
        r"column 'size': expected numbers as .*, got 'True' in data row 1 of '.*b\.csv'",
    ),
    "empty": ("id,size,colour\n", r"expected rows in '.*b\.csv'"),
}


@pytest.mark.parametrize("case", OTHER_COLUMNS)
@pytest.mark.parametrize("option", ["test_path", "unlabeled_path"])
def test_files_that_do_not_match_are_told(tmp_path: Path, case: str, option: str) -> None:
    """contract: a column that one file lacks, or that holds another type there, is named with both files."""
    text, message = OTHER_COLUMNS[case]
    if option == "test_path":
        text = "\n".join(f"{line},{'kind' if not i else 0}" if line else "" for i, line in enumerate(text.split("\n")))
    paths = {"path": write(tmp_path / "a.csv", TRAIN_CSV), option: write(tmp_path / "b.csv", text)}
    with pytest.raises(InputError, match=message) as caught:
        SOURCES["table"](label="kind", **paths)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["test_path", "unlabeled_path"])
def test_a_column_without_values_is_of_any_type(tmp_path: Path, option: str) -> None:
    """property: a file in which a column is missing in all rows is fed as the training file's column is."""
    paths = {
        "path": write(tmp_path / "a.csv", TRAIN_CSV),
        option: write(tmp_path / "b.csv", "id,size,colour,kind\n1,,,0\n2,,,1\n"),
    }
    feeds = SOURCES["table"](label="kind", **paths).feed(np.array([0, 12]))
    assert feeds["colour"].tolist() == ["r", ""]
    np.testing.assert_array_equal(feeds["size"], [0.0, np.nan])
