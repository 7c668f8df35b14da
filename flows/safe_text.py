"""Text from data and settings as it may be shown on a terminal, in Markdown, or to anybody.

A class, a group, a column or a file may be called ``[/b]``, ``a|b``, ``<img ...>`` or hold a control sequence of a
terminal. Nothing of that is obeyed, and nothing is dropped.
"""

from __future__ import annotations

import html
import logging
import os
import re
import sys
import warnings

from rich.text import Text

from distillery.address import mask_in, mask_secret
from distillery.errors import first_line

# Control characters, signs that change the direction of what follows, and halves of characters.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
MARKDOWN = re.compile(r"([\\`\[|*])")
SECRET_NAMES = re.compile("PASSWORD|SECRET|TOKEN|API_KEY|AUTH_STRING|NOTIFY_URL")


def visible(text: object) -> str:
    """The text on one line, each sign in it that a terminal would obey written out, such as ``\\x1b``."""
    return UNSEEN.sub(_written_out, str(text))


def plain(text: object, style: str = "") -> Text:
    """The text for rich, which finds no markup in it."""
    return Text(visible(text), style)


def markdown(text: object) -> str:
    """The text for a cell or a sentence of Markdown, which finds neither markup nor HTML in it."""
    return MARKDOWN.sub(r"\\\1", html.escape(visible(text), quote=False))


def without_secrets(text: str) -> str:
    """The text, the secrets that the environment holds as ``***``."""
    for name, value in os.environ.items():
        if "://" in value:
            text = mask_in(text, value)
        if SECRET_NAMES.search(name):
            user, _, password = value.partition(":")  # a login, or one secret
            text = mask_secret(mask_secret(text, value), password or user)
    return text


def tell_warnings() -> None:
    """From now on a library's warning is a line of the log; of what it will do in future versions nothing is said."""
    if not sys.warnoptions:  # what the user asks Python for holds
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", category)
    warnings.showwarning = _tell_warning


def _tell_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    logging.getLogger(__name__).warning("%s: %s", category.__name__, first_line(message))


class Plain(logging.Formatter):
    """Log lines without secrets, and without signs that a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        """The record, with line breaks where a traceback has them."""
        lines = without_secrets(super().format(record)).split("\n")
        return "\n".join(visible(line) for line in lines)


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
