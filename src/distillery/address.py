"""Addresses of servers, databases and storage as they may be shown.

An address may hold a login, ``scheme://user:password@host``, or a key in its query. Every message, report and page
shows an address through one of these functions.

A password may hold any sign, also ``@``, ``/``, ``?`` and ``#``, at which `urllib.parse.urlsplit` would cut it. So a
login ends at the last ``@``: where that is too late, more is masked than necessary, never less.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

MASK = "***"
SHORTEST = 4  # characters: a password "a" cannot be masked in a text without masking every "a"
END_OF_HOST = re.compile(r"[/?#]")
END_OF_PATH = re.compile(r"[?#]")


def masked(address: str) -> str:
    """The address with its password and its query as ``***``."""
    scheme, login, location = _split(address)
    path, *query = END_OF_PATH.split(location, maxsplit=1)
    shown_query = f"?{MASK}" if query else ""
    if login is None:
        return f"{scheme}{path}{shown_query}"

    user, colon, _ = login.partition(":")
    is_user = bool(colon) and not END_OF_HOST.search(user)  # without a password the name is a token
    shown_login = f"{user}:{MASK}" if is_user else MASK
    return f"{scheme}{shown_login}@{path}{shown_query}"


def without_login(address: str) -> str:
    """The address without its login and its query: a link that anybody may be given."""
    scheme, _, location = _split(address)
    return scheme + END_OF_PATH.split(location, maxsplit=1)[0]


def mask_in(text: str, address: str) -> str:
    """A text, for instance the error of a library, with an address and the secrets of it masked."""
    _, login, location = _split(address)
    _, *secrets = END_OF_PATH.split(location, maxsplit=1)
    if login is not None:
        user, colon, password = login.partition(":")
        secrets.append(password if colon else user)

    text = text.replace(address, masked(address))
    for secret in secrets:
        text = mask_secret(text, secret)
        text = mask_secret(text, unquote(secret))
    return text


def mask_secret(text: str, secret: str) -> str:
    """A text with a secret in it as ``***``, unless the secret is too short to be told from other words."""
    return text.replace(secret, MASK) if len(secret) >= SHORTEST else text


def _split(address: str) -> tuple[str, str | None, str]:
    """(scheme with ``://``, login, the rest); the login is None where there is none."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "", address
    host = END_OF_HOST.split(rest, maxsplit=1)[0]
    may_have_login = "@" in host or (":" in host and "@" in rest)
    if not may_have_login:
        return scheme + separator, None, rest
    login, _, location = rest.rpartition("@")
    return scheme + separator, login, location
