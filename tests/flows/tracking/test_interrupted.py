"""A decision that is cut short before any of its writes: there is one champion, and the next run mends the rest."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from distillery.errors import InputError
from distillery.flows.environment import Places
from distillery.flows.tracking.lifecycle import transaction

WRITES = ("set_model_version_tag", "update_model_version", "set_registered_model_tag", "set_registered_model_alias")


class _Died(BaseException):
    """The process ended here."""


class _Dying(MlflowClient):
    """A client that gets no further than a number of writes."""

    left = 0

    def __getattribute__(self, name: str) -> Any:
        if name in WRITES:
            if self.left == 0:
                raise _Died
            self.left -= 1
        return super().__getattribute__(name)


def _dies(model: Any, left: int, act: Callable[[], object]) -> bool:
    """Whether the action needed more writes than were left."""
    whole = model.client
    model.client = _Dying(Places.from_environment().tracking_uri)
    model.client.left = left
    try:
        act()
        return False
    except _Died:
        return True
    finally:
        model.client = whole


def _turn(model: Any) -> Any:
    return transaction(model.client, Places.from_environment(), model.name)


def _by_hand(model: Any, version: int) -> None:
    with _turn(model) as mine:
        mine.promote(version, "by hand")


def _rollback(model: Any, _: int) -> None:
    with suppress(InputError), _turn(model) as mine:  # what was rolled back in the meantime is not rolled back twice
        mine.rollback("")


@pytest.mark.parametrize(
    ("quality", "act", "action", "writes"),
    [
        (1.0, lambda model, version: model.propose(version), "promoted", 8),
        (-1.0, lambda model, version: model.propose(version), "rejected", 4),
        (-1.0, _by_hand, "promoted by hand", 8),
        (1.0, _rollback, "rolled back", 6),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_death_before_any_write_is_mended(
    model: Any, quality: float, act: Callable[[Any, int], object], action: str, writes: int
) -> None:
    """Resume: after each death the model is as before or whole, never between, and the same command makes it whole."""
    model.propose(model.version(0.0))
    for left in range(writes + 1):
        candidate = model.version(quality * (left + 1))
        if action == "rolled back":
            model.propose(candidate)
        (champion, previous), history = model.aliases, model.history
        after = {
            "rejected": ((champion, previous), (action, candidate, champion)),
            "rolled back": ((previous, champion), (action, previous, champion)),
        }.get(action, ((candidate, champion), (action, candidate, champion)))

        died = _dies(model, left, lambda version=candidate: act(model, version))
        assert died is (left < writes) and model.aliases[0] in (champion, after[0][0])
        with _turn(model):
            pass
        states = ((champion, previous), history), (after[0], [*history, after[1]])
        assert (model.aliases, model.history) in states
        act(model, candidate)
        assert (model.aliases, model.history) == states[1]
        if action != "rejected":
            tags = model.client.get_registered_model(model.name).tags
            assert tags["history.done"] == model.entries[-1].key
            assert model.tags(after[0][0])["standing"] == "champion" != model.tags(after[0][1])["standing"]


def test_an_alias_that_was_moved_since_is_left_alone(model: Any) -> None:
    """Never a worse champion: what a dead process was about to promote was not compared with what is there now."""
    for quality in (0.1, 0.3):
        model.propose(model.version(quality))
    candidate = model.version(0.4)
    assert _dies(model, 5, lambda: model.propose(candidate))
    assert model.history[-1] == ("promoted", candidate, 2) and model.aliases == (2, 1)
    model.client.set_registered_model_alias(model.name, "champion", "1")
    with _turn(model):
        pass
    assert model.aliases == (1, 1)
    assert model.propose(candidate).promoted and model.judged[-1] == (candidate, 1) and model.aliases == (candidate, 1)
