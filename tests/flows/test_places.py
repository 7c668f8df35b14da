"""What the environment may say."""

import pytest

from distillery.errors import InputError
from flows.places import Places


@pytest.mark.parametrize(("text", "price"), [("", None), ("0", 0.0), ("2.5", 2.5)])
def test_a_price_is_a_number_or_absent(monkeypatch: pytest.MonkeyPatch, text: str, price: float | None) -> None:
    """golden."""
    monkeypatch.setenv("DISTILLERY_PRICE_PER_HOUR", text)
    assert Places.from_environment().price_per_hour == price


@pytest.mark.parametrize("text", ["2 EUR", "-1", "nan", "inf"])
def test_another_price_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """contract: one line that names the variable and the value."""
    monkeypatch.setenv("DISTILLERY_PRICE_PER_HOUR", text)
    with pytest.raises(InputError, match=rf"DISTILLERY_PRICE_PER_HOUR: expected .*, got '{text}'"):
        Places.from_environment()
