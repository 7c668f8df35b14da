"""What is said of an error in one line."""

from __future__ import annotations

import pytest

from distillery.errors import InputError, first_line

ERRORS: list[tuple[BaseException | str, str]] = [
    (ValueError("one"), "one"),
    (ValueError("one\ntwo"), "one"),
    (ValueError("\n  one \r\ntwo"), "one "),
    (InputError(""), "InputError"),
    (OSError(), "OSError"),
    (KeyboardInterrupt(), "KeyboardInterrupt"),
    (RuntimeError(" \n "), "RuntimeError"),
    ("a warning\nand more", "a warning"),
]


@pytest.mark.parametrize(("error", "line"), ERRORS)
def test_the_first_line_of_an_error(error: BaseException | str, line: str) -> None:
    """golden: empty lines before it are skipped; an error without a message is called by its type."""
    assert first_line(error) == line
