"""The list of decisions as text: it fits MLflow's columns, is read as written, and says where a version stands."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillery.errors import InputError
from distillery.flows.tracking.history import (
    BY_HAND,
    PROMOTED,
    REJECTED,
    ROLLED_BACK,
    Entry,
    champion,
    read,
    standing,
    written,
)

FIRST = Entry(1, "2026-01-01T02:00:00+00:00", "a@b", None, PROMOTED, 1, None, ["beats all"], "r", "d", None)


def _entries(*moves: tuple[str, int, int | None]) -> list[Entry]:
    """Entries with action, version and over alone."""
    return [replace(FIRST, number=n, action=a, version=v, over=o) for n, (a, v, o) in enumerate(moves, 1)]


@given(st.lists(st.text(max_size=400), max_size=60))
def test_what_is_written_fits_and_is_read_again(reasons: list[str]) -> None:
    """property: at most 5,000 characters; read as it was, where nothing was cut."""
    entry = replace(FIRST, reasons=reasons)
    text = written(entry)
    assert len(text) <= 5000
    (found,) = read({"history.000001": text, "history.done": "history.000001", "other": "x"})
    assert replace(found, reasons=[]) == replace(entry, reasons=[])
    if sum(map(len, reasons)) < 700 and max(map(len, reasons), default=0) <= 240:
        assert found.reasons == reasons
    for short, whole in zip(found.reasons, reasons, strict=False):
        assert short == "..." or whole.startswith(short.removesuffix(" ..."))


def test_an_entry_without_test_rows_is_read() -> None:
    """Contract: those that were written before the field was."""
    tree = json.loads(written(FIRST))
    del tree["test_rows"]
    (found,) = read({"history.000001": json.dumps(tree)})
    assert found == FIRST and found.test_rows is None


def test_entries_are_in_the_order_of_their_numbers() -> None:
    """Contract: also beyond six digits, where the tags' names no longer sort as numbers."""
    numbers = [1_000_000, 2, 999_999]
    tags = {replace(FIRST, number=n).key: written(replace(FIRST, number=n)) for n in numbers}
    assert [e.number for e in read(tags)] == sorted(numbers)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"number": 1}', "promoted"])
def test_an_entry_that_was_changed_by_hand_is_named(text: str) -> None:
    """Contract of error messages: the tag is named."""
    with pytest.raises(InputError, match=r"history\.000007"):
        read({"history.000007": text})


def test_a_version_stands_where_the_last_entry_about_it_put_it() -> None:
    """Contract: being compared with changes nothing, being replaced or withdrawn does."""
    entries = _entries(
        (PROMOTED, 1, None), (REJECTED, 2, 1), (PROMOTED, 3, 1), (REJECTED, 4, 3), (ROLLED_BACK, 1, 3), (BY_HAND, 2, 1)
    )
    found = {v: standing(entries, v) for v in (1, 2, 3, 4, 5)}
    assert {v: e and e.number for v, e in found.items()} == {1: 6, 2: 6, 3: 5, 4: 4, 5: None}
    assert champion(entries) == 2 and champion(entries[1:2]) is None
