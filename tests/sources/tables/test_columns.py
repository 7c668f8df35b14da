"""What columns of text hold: decided over all files, told where it is not certain, refused where it cannot be said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.errors import InputError
from distillery.serving.numbers import NumberFormat, parse, recognize
from distillery.sources import SOURCES, Rows

COUNT = 60
DRAW = np.random.default_rng(0)
AMOUNTS = DRAW.random(COUNT) * 1e5


def rows_of(folder: Path, cells: Sequence[Any], *, options: dict[str, Any] | None = None, name: str = "v") -> Rows:
    """A table with one column of cells beside a number and the class."""
    frame = pd.DataFrame({"x": DRAW.normal(size=len(cells)), name: list(cells)})
    frame["y"] = ["a", "b"] * (len(cells) // 2)
    frame.to_csv(folder / "rows.csv", index=False)
    return SOURCES["table"](path=str(folder / "rows.csv"), label="y", **(options or {}))


NUMBERS = {
    "dollars": [f"${v:,.2f}" for v in AMOUNTS],
    "signed": [f"-${v:.2f}" for v in AMOUNTS],
    "euros": [f"{v:.2f} €" for v in AMOUNTS],
    "per cent": [f"{v:.1f}%" for v in AMOUNTS],
    "units": [f"{v:.1f} kg" for v in AMOUNTS],
    "commas": [f"{v:.2f}".replace(".", ",") for v in AMOUNTS],
    "thousands": [f"{int(v):,}" for v in AMOUNTS],
    "blanks": [f"{int(v):,}".replace(",", "\u202f") for v in AMOUNTS],
    "swiss": [f"{v:,.2f}".replace(",", "'") for v in AMOUNTS],
    "minus signs": [f"{v:.2f}".replace("-", "\u2212") for v in DRAW.normal(size=COUNT)],
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_as_people_write_them(tmp_path: Path, case: str) -> None:
    """reference: Python's own float of the same digits; the note shows one cell and its value."""
    cells = NUMBERS[case]
    rows = rows_of(tmp_path, cells)
    comma = case == "commas"
    digits = [c.replace(",", "." if comma else "").replace("\u2212", "-") for c in cells]
    expected = [float("".join(sign for sign in text if sign in "-.0123456789")) for text in digits]
    np.testing.assert_allclose(rows.frame["v"], expected)
    assert any("'v' is read as numbers" in note for note in rows.notes)


TIMES = {
    "iso": ("2023-01-05 10:00:00", "2023-02-13 00:00:00.5", "2023-03-07"),
    "zulu": ("2023-01-05T10:00:00Z", "2023-02-13T00:00:00.500Z", "2023-03-07T00:00Z"),
    "offset": ("2023-01-05T12:00:00+02:00", "2023-02-13T02:00:00.5+02:00", "2023-03-07T02:00+02:00"),
    "day first": ("05/01/2023 10:00", "13/02/2023 00:00:00.5", "07/03/2023"),
    "month first": ("01/05/2023 10:00 AM", "02/13/2023 00:00:00.5", "03/07/2023 12:00 AM"),
    "dots": ("5.1.2023 10:00", "13.02.2023 00:00:00.5", "07.03.2023"),
}


@pytest.mark.parametrize("case", TIMES)
def test_times_are_seconds(tmp_path: Path, case: str) -> None:
    """reference: pandas' own seconds since 1970, UTC."""
    rows = rows_of(tmp_path, TIMES[case] * 20)
    times = pd.to_datetime(["2023-01-05 10:00", "2023-02-13 00:00:00.5", "2023-03-07"], format="ISO8601")
    assert rows.frame["v"].tolist()[:3] == [time.timestamp() for time in times.tz_localize("UTC")]


NOTES = {
    "free text": ([f"name {i}" for i in range(COUNT)], "holds 60 texts, none of them in 10 training rows"),
    "codes": (["1", "2", "x"] * 20, "holds numbers beside text such as 'x', in data row 3"),
    "leading zeros": (["02139", "07030"] * 30, "'02139' is 2139; name it in data.categories"),
    "long numbers": ([str(2**60 + i % 7) for i in range(COUNT)], "which lose digits"),
    "thousands with points": ([f"{i * 313:,}".replace(",", ".") for i in range(1, COUNT + 1)], "set data.decimal"),
    "units that differ": ([f"{i} {'kg' if i % 2 else 'g'}" for i in range(COUNT)], "in no one form: taken for text"),
    "unsure dates": ([f"{1 + i % 12:02d}/{1 + i % 11:02d}/2023" for i in range(COUNT)], "looks like dates"),
    "a constant": (["7"] * COUNT, "is the same in every training row: it counts for nothing"),
    "an empty column": ([None] * COUNT, "is empty in training: it counts for nothing"),
    "a marker": ([999999999, *DRAW.normal(size=COUNT - 1)], "far from all others, such as 999999999"),
    "the class": (["one", "two"] * 30, "alone tells the class of every training row"),
    "the class in numbers": ([1, 7] * 30, "alone tells the class of every training row"),
}


@pytest.mark.parametrize("case", NOTES)
def test_what_looks_wrong_is_told(tmp_path: Path, case: str) -> None:
    """contract: one sentence that names the column."""
    cells, message = NOTES[case]
    notes = [note for note in rows_of(tmp_path, cells).notes if message in note]
    assert len(notes) == 1 and "'v'" in notes[0] and "\n" not in notes[0]


def test_ordinary_columns_are_not_suspected(tmp_path: Path) -> None:
    """property: numbers, heavy tails, few texts, truth values and times in their usual form need no sentence."""
    frame = pd.DataFrame(
        {
            "number": DRAW.normal(size=200),
            "tail": DRAW.lognormal(size=200),
            "count": DRAW.poisson(3, 200),
            "text": DRAW.choice(["red", "blue"], 200),
            "truth": DRAW.random(200) < 0.5,
            "y": DRAW.choice(["a", "b"], 200),
        }
    )
    frame.to_csv(tmp_path / "rows.csv", index=False)
    assert SOURCES["table"](path=str(tmp_path / "rows.csv"), label="y").notes == ()


def test_keys_and_saved_indexes(tmp_path: Path) -> None:
    """contract: a saved index is left out and said; a key is used and said."""
    rows = rows_of(tmp_path, list(range(COUNT)), name="Unnamed: 0")
    assert list(rows.frame.columns) == ["x"] and "numbers the rows" in rows.notes[0]
    assert rows.reading is not None and rows.reading.left_out == ("Unnamed: 0",)
    keys = rows_of(tmp_path, DRAW.permutation(10**6)[:COUNT].tolist(), name="customer_id")
    assert list(keys.frame.columns) == ["x", "customer_id"]
    assert any("'customer_id' is another number in every row" in note for note in keys.notes)


REFUSED = {
    "a stray word": (
        [*map(str, range(COUNT - 1)), "unknown"],
        r"column 'v': expected numbers, as 98.3% of the cells are, got 'unknown' in data row 60 .*data\.missing",
    ),
    "dashes": ([str(v) if i % 5 else "-" for i, v in enumerate(AMOUNTS)], r"got '-' in data row 1 .*data\.missing"),
    "infinity": (["inf", *["1.5"] * (COUNT - 1)], "expected finite numbers, got infinity in data row 1 of"),
    "too large": (["1e999", *["1.5"] * (COUNT - 1)], "expected finite numbers, got infinity in data row 1 of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_cells_of_which_nothing_can_be_said(tmp_path: Path, case: str) -> None:
    """contract: one line with the column, the cell, its row and what to do."""
    cells, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        rows_of(tmp_path, cells)
    assert "\n" not in str(caught.value)


def test_a_declared_word_is_missing(tmp_path: Path) -> None:
    """contract: the same stray word, declared, is a missing number."""
    rows = rows_of(tmp_path, [*map(str, range(COUNT - 1)), "unknown"], options={"missing": ["unknown"]})
    assert np.isnan(rows.frame["v"].iloc[-1]) and rows.frame["v"].notna().sum() == COUNT - 1


LABELS = {
    "quantities": (DRAW.normal(size=COUNT), "60 different numbers with fractions: only classes"),
    "infinite": ([0.0, 1.0] * 29 + [np.inf] * 2, "expected a class, got infinity in data row 59"),
    "not available": (["NA", "b"] * 30, "'NA', which reads as missing, in data row 1"),
    "missing": (["a", "b"] * 29 + [None, "a"], "got 1 missing, the first in data row 59"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_are_no_classes(tmp_path: Path, case: str) -> None:
    """contract: one line with the column and the row."""
    labels, message = LABELS[case]
    frame = pd.DataFrame({"x": DRAW.normal(size=COUNT), "y": list(labels)})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(InputError, match=message):
        SOURCES["table"](path=str(tmp_path / "rows.csv"), label="y")


def test_a_class_may_be_called_none(tmp_path: Path) -> None:
    """contract: a text is a class; only an empty cell, and what data.missing names, is missing."""
    frame = pd.DataFrame({"x": DRAW.normal(size=40), "y": ["None", " Mild ", "[/b]", "TRUE"] * 10})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    rows = SOURCES["table"](path=str(tmp_path / "rows.csv"), label="y")
    assert rows.labels.tolist()[:4] == ["None", "Mild", "[/b]", "True"]


def test_codes_are_one_column_in_all_files(tmp_path: Path) -> None:
    """contract: codes that are all digits in one file are the training file's codes, also as numbers."""
    train = pd.DataFrame({"code": ["A1", "12", "7"] * 20, "x": DRAW.normal(size=60), "y": ["a", "b"] * 30})
    test = pd.DataFrame({"code": [12.0, None, 7.0] * 4, "x": DRAW.normal(size=12), "y": ["a", "b"] * 6})
    train.to_csv(tmp_path / "train.csv", index=False)
    test.to_csv(tmp_path / "test.csv", index=False)
    paths = {"path": str(tmp_path / "train.csv"), "test_path": str(tmp_path / "test.csv")}
    rows = SOURCES["table"](label="y", **paths)
    assert rows.frame["code"].tolist()[:3] == ["A1", "12", "7"]
    assert rows.frame["code"].tolist()[60:63] == ["12", None, "7"]


def test_versions_are_not_merged(tmp_path: Path) -> None:
    """contract: 1.1 and 1.10 stay two codes where both are there; 1.0 and 1 are one elsewhere."""
    apart = rows_of(tmp_path, ["1.1", "1.10", "1.2"] * 20, options={"categories": ["v"]})
    assert set(apart.frame["v"]) == {"1.1", "1.10", "1.2"}
    one = rows_of(tmp_path, ["1.0", "1", "2.50"] * 20, options={"categories": ["v"]})
    assert set(one.frame["v"]) == {"1", "2.5"}


@given(st.lists(st.floats(-1e9, 1e9).map(lambda v: round(v, 2)), min_size=1, max_size=20))
@settings(max_examples=60)
@pytest.mark.parametrize("style", [(",", "."), (",", " "), (".", ","), (".", "'")])
def test_a_recognized_format_reads_back_what_was_written(style: tuple[str, str], values: list[float]) -> None:
    """property: numbers with two decimals, written in a format, are found again, whatever the format taken."""
    texts = [f"{v:,.2f}".replace(",", "_").replace(".", style[0]).replace("_", style[1]) for v in values]
    found, doubt = recognize(texts, None)
    assert found is not None and not doubt
    np.testing.assert_allclose(parse(pd.Series(texts, dtype=object), found), values)


def test_a_format_refuses_what_is_not_in_it() -> None:
    """contract: another unit, another currency and other groups of digits are no numbers of the column."""
    cells = pd.Series(["5 kg", "5 g", "$5", "1.23", "1.234,5", "five", None], dtype=object)
    found = parse(cells, NumberFormat(",", ".", "", "kg"))
    assert np.isnan(found).tolist() == [False, True, True, True, False, True, True]
    assert found[0] == 5 and found[4] == 1234.5
