"""Addresses as they may be shown: no secret of them is left, and what helps a reader is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillery.address import mask_in, masked, without_login

SHOWN = {
    "postgresql://me:hunter2@host:5432/db": "postgresql://me:***@host:5432/db",
    "postgresql://me:hunt@er2@host/db?password=hunter2": "postgresql://me:***@host/db?***",
    "http://me:hunt/er2@host/path": "http://me:***@host/path",
    "https://hunter2@host/path": "https://***@host/path",
    "https://host/path?token=hunter2": "https://host/path?***",
    "me:hunter2@host": "me:***@host",
    "sqlite:////srv/a@b/mlflow.db": "sqlite:////srv/a@b/mlflow.db",
    "s3://bucket/a@b": "s3://bucket/a@b",
    "tcp://10.0.0.5:8786": "tcp://10.0.0.5:8786",
}


@pytest.mark.parametrize("address", SHOWN)
def test_an_address_is_shown_without_its_secrets(address: str) -> None:
    """golden: login, token and query are masked; paths and ports are kept."""
    assert masked(address) == SHOWN[address]


@given(st.text("@/?#:%[] a"), st.text("@/?#:%[] a"))
def test_no_part_of_a_password_is_left(before: str, after: str) -> None:
    """property: whatever signs a password holds, also those that end a host."""
    address = f"http://me:hunter{before}two{after}@host:80/path"
    for shown in (masked(address), without_login(address)):
        assert "hunter" not in shown and "two" not in shown and shown.endswith("host:80/path")


def test_a_link_has_no_login() -> None:
    """golden: what remains can be opened by anybody."""
    assert without_login("https://me:hunter2@host:8080/mlflow?token=x") == "https://host:8080/mlflow"
    assert without_login("http://127.0.0.1:5000") == "http://127.0.0.1:5000"


def test_an_error_that_repeats_the_address_is_masked() -> None:
    """golden: the address, its password alone, and the password as the server sees it."""
    address = "http://me:hunter%402@host/path?key=open-sesame"
    said = f"cannot open {address}: hunter%402 and hunter@2 with key=open-sesame refused"
    assert mask_in(said, address) == "cannot open http://me:***@host/path?***: *** and *** with *** refused"
    assert mask_in("a banana", "http://me:a@host") == "a banana"
