"""Numbers as people write them: decimal marks, groups of thousands, currencies, per cent and units."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

CURRENCIES = frozenset({"$", "€", "£", "¥", "₹", "₽", "₩", "₺", "US$", "USD", "EUR", "GBP", "JPY", "CHF", "CNY", "INR"})
SPACES = " \u00a0\u202f\u2009"
PARTS = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<prefix>[^\W\d_]{0,3}[$€£¥₹₽₩₺]?)\s*(?P<inner>[+-]?)"
    r"(?P<body>\d[\d.,' \u00a0\u202f\u2009]*|[.,]\d+)(?P<suffix>\D{0,8})",
    re.UNICODE,
)
UNIT = re.compile(r"%|‰|[^\W\d_µ°]{1,6}[²³]?|[µ°][^\W\d_]{0,3}", re.UNICODE)
STYLES = ((".", ","), (".", " "), (".", "'"), (",", "."), (",", " "), (",", "'"), (".", ""), (",", ""))


@dataclass(frozen=True)
class NumberFormat:
    """How the numbers of a column are written.

    Attributes:
        decimal: The decimal mark.
        thousands: What parts groups of three digits; a space stands for every kind of space, "" for nothing.
        prefix: A currency before every number.
        suffix: A currency, a per cent sign or a unit behind every number.
    """

    decimal: str = "."
    thousands: str = ""
    prefix: str = ""
    suffix: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether Python would read such numbers as well."""
        return self == NumberFormat()


PLAIN = NumberFormat()


def parse(texts: pd.Series, style: NumberFormat) -> np.ndarray:
    """The numbers that texts hold, float64 [N]; NaN where a text is no number, or missing."""
    values = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64, copy=True)
    if style.decimal != "." or style.thousands:
        values[:] = np.nan  # "1.234" is not what Python takes it for
    open_rows = np.flatnonzero(np.isnan(values) & texts.notna().to_numpy())
    parsed: dict[str, float] = {}
    for row in open_rows:
        text = texts.iat[row]
        if text not in parsed:
            parsed[text] = _number(text, style)
        values[row] = parsed[text]
    return values


def recognize(
    texts: Iterable[str], decimal: str | None = None, by_comma: bool = False
) -> tuple[NumberFormat | None, bool]:
    """(the one format that all texts fit, whether two formats fit that give different numbers).

    Args:
        texts: Cells that are not missing, and of which some are not plain numbers.
        decimal: The decimal mark, if it is known.
        by_comma: Whether commas separate the columns of the file: where they do, they are no decimal marks.
    """
    cells = []
    for text in texts:
        cell = PARTS.fullmatch(_ascii_minus(text))
        if cell is None:
            return None, False
        cells.append(cell)
    prefix = _only(cell["prefix"].strip() for cell in cells)
    suffix = _only(cell["suffix"].strip() for cell in cells)
    if prefix is None or suffix is None or not _is_affix(prefix, suffix):
        return None, False
    bodies = [cell["body"].strip() for cell in cells]
    fitting = [s for s in STYLES if decimal in (None, s[0]) and all(_fits(body, *s) for body in bodies)]
    if not fitting:
        return None, False
    read = [[_value(body, *style) for body in bodies] for style in fitting]
    best = 0
    if any(values != read[0] for values in read):
        if not by_comma and not _grouped(bodies):
            return None, True
        best = next(n for n, (_, thousands) in enumerate(fitting) if thousands)
    return NumberFormat(*fitting[best], prefix, suffix), False


def _number(text: str, style: NumberFormat) -> float:
    if style.is_plain:
        return float(text) if _is_plain(text) else np.nan  # too large for pandas
    cell = PARTS.fullmatch(_ascii_minus(text))
    if cell is None:
        return float(text) if _is_plain(text) and style.decimal == "." else np.nan
    if cell["prefix"].strip() not in ("", style.prefix) or cell["suffix"].strip() not in ("", style.suffix):
        return np.nan
    body = cell["body"].strip()
    if not _fits(body, style.decimal, style.thousands):
        return np.nan
    value = _value(body, style.decimal, style.thousands)
    return -value if "-" in cell["sign"] + cell["inner"] else value


def _is_plain(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) is not None


def _ascii_minus(text: str) -> str:
    return text.replace("\u2212", "-").strip()


def _only(texts: Iterable[str]) -> str | None:
    """The one text among them besides the empty one; None if there are several."""
    distinct = set(texts) - {""}
    if len(distinct) > 1:
        return None
    return distinct.pop() if distinct else ""


def _is_affix(prefix: str, suffix: str) -> bool:
    before = prefix == "" or prefix in CURRENCIES
    behind = suffix == "" or suffix in CURRENCIES or UNIT.fullmatch(suffix) is not None
    return before and behind


def _fits(body: str, decimal: str, thousands: str) -> bool:
    whole, mark, fraction = body.partition(decimal)
    if mark and not re.fullmatch(r"\d*", fraction):
        return False
    if not thousands:
        return re.fullmatch(r"\d*", whole) is not None and bool(whole or fraction)
    between = f"[{SPACES}]" if thousands == " " else re.escape(thousands)
    return re.fullmatch(rf"\d{{1,3}}({between}\d{{3}})+|\d*", whole) is not None and bool(whole or fraction)


def _value(body: str, decimal: str, thousands: str) -> float:
    for mark in SPACES if thousands == " " else thousands:
        body = body.replace(mark, "")
    return float(body.replace(decimal, "."))


def _grouped(bodies: list[str]) -> bool:
    """Whether marks part thousands beyond doubt: short numbers never have one, and there are many with one."""
    marked = [body for body in bodies if not body.isdigit()]
    short = [body for body in bodies if body.isdigit()]
    return len(marked) >= 20 and len(short) >= 5 and all(len(body) <= 3 for body in short)
