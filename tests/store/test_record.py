"""Records: what is written is what is read, and nothing else is taken for it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from distillery.errors import InputError
from distillery.store.record import Record


class Figures(Record):
    """A record of numbers."""

    FILE: ClassVar[str] = "figures.json"
    schema_version: Literal[2] = 2
    values: list[float]


@given(st.lists(st.floats(allow_nan=False)))
def test_numbers_come_back_to_the_last_digit(values: list[float]) -> None:
    """property: every float, infinities and signed zeros too, is the same one after JSON."""
    found = Figures.parse(Figures(values=values).model_dump_json(), "here")
    assert [v.hex() for v in found.values] == [v.hex() for v in values]


def test_a_record_is_frozen_and_is_read_from_its_folder(tmp_path: Path) -> None:
    """contract: one file of the record's own name, which nobody changes after it is read."""
    Figures(values=[0.1]).write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    found = Figures.read(tmp_path)
    assert found == Figures(values=[0.1])
    with pytest.raises(ValidationError, match="frozen"):
        found.values = []  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"schema_version": 1, "values": []}', "expected schema_version 2, got 1"),
        ('{"schema_version": 3, "values": [], "more": 1}', "expected schema_version 2, got 3"),
        ("[1]", "expected schema_version 2, got None"),
        ('{"schema_version": 2, "values": [], "more": 1}', "expected a Figures, got another content: more"),
    ],
)
def test_another_file_is_never_misread(tmp_path: Path, text: str, problem: str) -> None:
    """contract: a file of another version or content is refused in one line that names it."""
    (tmp_path / "figures.json").write_text(text)
    with pytest.raises(InputError, match=f"figures.json: {problem}") as caught:
        Figures.read(tmp_path)
    assert "\n" not in str(caught.value)
