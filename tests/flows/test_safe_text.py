"""Text from data and settings: shown as it is, never obeyed, and without secrets."""

from __future__ import annotations

import io
import logging
import sys
import warnings

import pytest
from rich.console import Console
from rich.table import Table

from distillery.flows.safe_text import Plain, markdown, plain, tell_warnings, visible, without_secrets

NAMES = ("[/b]", "[bold]x", "[red]", ":smile:", r"\[x]", "https://host", "a\x1b[2Jb", "a\u202eb")


@pytest.mark.parametrize("name", NAMES)
def test_rich_prints_a_name_as_it_is(name: str) -> None:
    """reference: the very signs, on a line and in a table, without markup, emoji or codes of a terminal."""
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system=None)
    table = Table("name")
    table.add_row(plain(name))
    console.print(plain(f"class {name}, "), table)
    shown = name.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e")
    assert stream.getvalue().count(shown) == 2 and "\x1b" not in stream.getvalue()


def test_signs_that_a_terminal_obeys_are_written_out() -> None:
    """golden: control characters, changes of direction, and what cannot be encoded; letters of all scripts stay."""
    assert visible("a\nb\tc\x07\x9b") == r"a\nb\tc\x07\x9b"
    assert visible("\u2066x\udcff") == r"\u2066x\udcff"
    assert visible("naïve 日本 می\u200cخواهم") == "naïve 日本 می\u200cخواهم"


def test_markdown_takes_a_name_for_text() -> None:
    """golden: no HTML, no end of a table's cell, no link and no picture."""
    assert markdown("<img src=x>|y") == r"&lt;img src=x&gt;\|y"
    assert markdown("![x](http://host)") == r"!\[x](http://host)"
    assert markdown("val_search NLL, 95 %") == "val_search NLL, 95 %"


def test_secrets_of_the_environment_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: logins in addresses, and variables that are called a password, a token or the like."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter2@host:80")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "you:open-sesame")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abc/def")
    monkeypatch.setenv("DISTILLERY_NOTIFY_URL", "https://hooks.host/T0/KEY")
    said = "http://me:hunter2@host:80/api hunter2 you:open-sesame open-sesame abc/def https://hooks.host/T0/KEY"
    assert without_secrets(said) == "http://me:***@host:80/api *** *** *** *** ***"


def test_a_warning_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """golden: its kind and first line, without the place in a library's source; nothing of future versions."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        tell_warnings()
        warnings.warn("lbfgs failed to converge\nSee the docs", UserWarning, stacklevel=1)
        warnings.warn("will change", FutureWarning, stacklevel=1)
    assert caplog.messages == ["UserWarning: lbfgs failed to converge"]


def test_log_lines_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: no secret and no control character; the lines of a traceback stay lines."""
    monkeypatch.setenv("X_PASSWORD", "hunter2")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Plain("%(message)s"))
    try:
        raise ValueError("hunter2 \x1b[2J")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "class %s", ("a\x1b",), None)
        handler.emit(record)
        record.exc_info = sys.exc_info()
        handler.emit(record)
    first, *_, last = stream.getvalue().splitlines()
    assert first == r"class a\x1b" and last == r"ValueError: *** \x1b[2J"
    assert "Traceback" in stream.getvalue()
