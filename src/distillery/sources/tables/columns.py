"""What the columns of a table hold, decided over all of its files together; the training file leads."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np
import pandas as pd

from distillery.errors import InputError
from distillery.serving.cells import CellError, Column, blanked, is_number, is_text, plain_numbers, read_cells
from distillery.serving.numbers import PLAIN, parse, recognize
from distillery.serving.times import ISO, parse_time
from distillery.sources.tables.codes import Declared, Part, category

NAME_IT = "name it in data.missing if it stands for a missing value, or the column in data.categories if it holds codes"
MOSTLY = 0.9  # a column with at least this share of numbers is one of numbers with strays, not of codes
FEW_STRAYS = 3
RARE = 10  # a category seen fewer times in training is treated like one never seen
NOTED = 20_000  # different cells of a column of numbers, among which its form is looked at
QUANTITY = 10  # different numbers, from which on a column with a stray word is taken for one of numbers
DATES = {"/": ("%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d"), ".": ("%d.%m.%Y",), "-": ("%d-%m-%Y", "%m-%d-%Y")}


@dataclass
class Learned:
    """A column, and what its user should know."""

    column: Column
    notes: list[str] = field(default_factory=list)


def learn_column(name: str, parts: Sequence[Part], declared: Declared) -> Learned:
    """What a column holds in all files; the first is the training file.

    Raises:
        InputError: It holds lists, or cells of which it cannot be said what they are.
    """
    for part in parts:
        _check_flat(name, part)
    if name in declared.categories:
        return Learned(category(name, parts, declared))
    learned = _learn_one(name, parts[0], declared)
    for part in parts[1:]:
        learned = _with_other(learned, name, parts, part, declared)
    if learned.column.kind == "category":
        learned.column = category(name, parts, declared)
    return learned


def read_part(column: Column, part: Part, missing: Sequence[str]) -> np.ndarray:
    """The cells of a column of one file; see `serving.cells.read_cells`.

    Raises:
        InputError: A cell is not what the column takes.
    """
    try:
        return read_cells(part.cells, column, missing)
    except CellError as error:
        where = "" if error.row is None else f" in data row {error.row + 1}"
        raise InputError(
            f"data: column {column.name!r}: expected {error.expected}, got {error.got}{where} of {part.path!r}; "
            f"{NAME_IT}"
        ) from error


def _check_flat(name: str, part: Part) -> None:
    cells = part.cells
    if pd.api.types.is_complex_dtype(cells):
        raise InputError(f"data: column {name!r} of {part.path!r} holds complex numbers; leave it out with data.drop")
    if cells.dtype != object:
        return
    plain = (str, bytes, bool, int, float, Decimal, np.generic, datetime.date, datetime.time, datetime.timedelta)
    for row, cell in enumerate(cells):
        if cell is not None and cell is not pd.NA and not isinstance(cell, plain):
            what = {"ndarray": "a list", "list": "a list", "dict": "a struct"}.get(type(cell).__name__, "")
            raise InputError(
                f"data: column {name!r} of {part.path!r}: expected a number, a text or a time in each cell, got "
                f"{what or 'a ' + type(cell).__name__} in data row {row + 1}; leave the column out with data.drop"
            )
        if isinstance(cell, str):
            break  # text files and columns of text hold nothing else


def _learn_one(name: str, part: Part, declared: Declared) -> Learned:
    """What the column holds in one file, by the types of its cells, and for text by how it is written."""
    cells = part.cells
    if isinstance(cells.dtype, pd.CategoricalDtype):
        cells = cells.astype(object)
    if pd.api.types.is_bool_dtype(cells):
        return Learned(Column(name, "truth"))
    if is_number(cells) or pd.api.types.is_timedelta64_dtype(cells):
        return Learned(Column(name, "number"), _big_numbers(name, cells))
    if pd.api.types.is_datetime64_any_dtype(cells):
        return Learned(Column(name, "time"))
    if is_text(cells):
        return _learn_text(name, part, declared)
    kind = pd.api.types.infer_dtype(cells, skipna=True)
    if kind == "boolean":
        return Learned(Column(name, "truth"))
    if kind in ("integer", "floating", "mixed-integer-float", "decimal", "timedelta"):
        return Learned(Column(name, "number"))
    if kind in ("date", "datetime"):
        return Learned(Column(name, "time"))
    return Learned(Column(name, "category"))


def _big_numbers(name: str, cells: pd.Series) -> list[str]:
    if pd.api.types.is_integer_dtype(cells) and len(cells) and float(cells.abs().max() or 0) > 2**53:
        return [f"column {name!r} holds whole numbers beyond 2^53, which lose their last digits; are they codes?"]
    return []


def _learn_text(name: str, part: Part, declared: Declared) -> Learned:
    values, others = plain_numbers(part.cells)
    if not len(others) and not np.isnan(values).all() and declared.decimal in (None, "."):
        some = pd.Series(pd.unique(part.cells.dropna())[:NOTED], dtype=object)
        return Learned(Column(name, "number"), _number_notes(name, some.str.strip()))
    texts = blanked(part.cells, declared.missing).dropna()
    if not len(texts):
        return Learned(Column(name, "number"))
    if texts.str.lower().isin(("true", "false")).all():
        return Learned(Column(name, "truth"))
    distinct = texts.drop_duplicates()
    plain = parse(distinct, PLAIN)
    is_plain = not np.isnan(plain).any()
    if is_plain and declared.decimal in (None, "."):
        return Learned(Column(name, "number"), _number_notes(name, distinct))
    style, doubt = recognize(distinct, declared.decimal, declared.by_comma)
    if style is not None:
        column = Column(name, "number", style)
        example = distinct[np.isnan(plain)].iat[0] if np.isnan(plain).any() else distinct.iat[0]
        value = read_cells(pd.Series([example], dtype=object), column)[0]
        return Learned(column, [f"column {name!r} is read as numbers: {example!r} is {value:g}"])
    if doubt:
        raise InputError(
            f"data: column {name!r} of {part.path!r}: numbers such as {distinct.iat[0]!r} may hold a decimal mark or "
            "groups of thousands: set data.decimal"
        )
    if is_plain:
        return Learned(Column(name, "number"))
    time_format = _time_format(distinct)
    if time_format is not None:
        return Learned(Column(name, "time", time_format=time_format), [f"column {name!r} is read as times"])
    return _words(name, part, texts, distinct, plain)


def _words(name: str, part: Part, texts: pd.Series, distinct: pd.Series, plain: np.ndarray) -> Learned:
    """A column of text, if a few strays are not all that keeps it from being one of numbers."""
    words = distinct[np.isnan(plain)]
    numbers = distinct[~np.isnan(plain)]
    share = 1 - texts.isin(set(words)).mean()
    lost = texts.value_counts().drop(words).max() < RARE if len(numbers) else False
    few = len(words) <= FEW_STRAYS and len(numbers) >= QUANTITY
    if few and (share >= MOSTLY or (share >= 0.5 and lost)):
        raise _stray(name, part, words.iloc[0], int(words.index[0]), f"{share:.1%} of the cells are")
    notes = []
    if share >= 0.5:
        notes.append(
            f"column {name!r} holds numbers beside text such as {words.iat[0]!r}, in data row "
            f"{int(words.index[0]) + 1} of {part.path!r}, and is taken for one of codes"
        )
    elif _looks_like(distinct, r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b.*"):
        notes.append(
            f"column {name!r} looks like dates, of which {distinct.iat[0]!r} is not certain: it is taken for text; "
            "write dates as 2024-06-30"
        )
    elif _looks_like(distinct, r"\D{0,3}[+-]?\d[\d.,' ]*\D{0,8}") and len(distinct) > QUANTITY:
        notes.append(f"column {name!r} looks like numbers such as {distinct.iat[0]!r}, in no one form: taken for text")
    return Learned(Column(name, "category"), notes)


def _stray(name: str, part: Part, text: object, row: int, why: str) -> InputError:
    return InputError(
        f"data: column {name!r}: expected numbers, as {why}, got {text!r} in data row {row + 1} of {part.path!r}; "
        f"{NAME_IT}"
    )


def _looks_like(distinct: pd.Series, pattern: str) -> bool:
    return bool(distinct.str.fullmatch(pattern).mean() > MOSTLY)


def _number_notes(name: str, distinct: pd.Series) -> list[str]:
    zeros = distinct.str.fullmatch(r"0\d+")
    if zeros.any():
        example = distinct[zeros].iat[0]
        return [
            f"column {name!r} is read as numbers: {example!r} is {float(example):g}; name it in data.categories if it "
            "holds codes"
        ]
    dotted = distinct[distinct.str.contains(".", regex=False)]
    grouped = dotted.str.fullmatch(r"[+-]?[1-9]\d{0,2}\.\d{3}").all()
    if grouped and QUANTITY <= len(dotted) < len(distinct):
        example = dotted.iat[0]
        return [
            f"column {name!r} is read as numbers: {example!r} is {float(example):g}; set data.decimal to ',' if the "
            "point parts thousands"
        ]
    big = distinct.str.fullmatch(r"[+-]?\d{16,}")
    if big.any():
        return [
            f"column {name!r} holds numbers as long as {distinct[big].iat[0]!r}, which lose digits; are they codes?"
        ]
    return []


def _time_format(distinct: pd.Series) -> str | None:
    """How all texts are written as times: "" for ISO 8601, a format of the date, or None."""
    if distinct.str.fullmatch(ISO.pattern).all() and all(parse_time(text, "") is not None for text in distinct):
        return ""
    mark = next((m for m in DATES if m in distinct.iat[0][:5]), None)
    if mark is None:
        return None
    fitting = [f for f in DATES[mark] if all(parse_time(text, f) is not None for text in distinct)]
    return fitting[0] if len(fitting) == 1 else None


def _with_other(learned: Learned, name: str, parts: Sequence[Part], part: Part, declared: Declared) -> Learned:
    """What the column holds, given another file."""
    column = learned.column
    if column.kind == "category" or not _has_values(part, declared):
        return learned
    if not _has_values(parts[0], declared):
        return _learn_one(name, part, declared)
    other = _learn_one_or_text(name, part, declared)
    if other.kind == column.kind == "number" and other.numbers != column.numbers and column.numbers == PLAIN:
        column = other  # whole numbers alone, in a file that writes others with a comma
        learned = Learned(other, learned.notes)
    if column.kind == "truth" and other.kind == "number":
        learned = Learned(Column(name, "number") if not is_text(parts[0].cells) else column, learned.notes)
    try:
        read_cells(part.cells, learned.column, declared.missing)
    except CellError as error:
        where = "" if error.row is None else f" in data row {error.row + 1}"
        raise InputError(
            f"data: column {name!r}: expected {error.expected} as in {parts[0].path!r}, got {error.got}{where} of "
            f"{part.path!r}"
        ) from error
    return learned


def _learn_one_or_text(name: str, part: Part, declared: Declared) -> Column:
    try:
        return _learn_one(name, part, declared).column
    except InputError:
        return Column(name, "category")


def _has_values(part: Part, declared: Declared) -> bool:
    if is_text(part.cells):
        return bool(blanked(part.cells, declared.missing).notna().any())
    return bool(part.cells.notna().any())
