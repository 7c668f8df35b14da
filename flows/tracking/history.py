"""What was decided about the versions of a registered model: an append-only list in the model's own tags."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from distillery.errors import InputError
from distillery.stages.promotion.record import DecisionCount

PROMOTED, REJECTED, BY_HAND, ROLLED_BACK = "promoted", "rejected", "promoted by hand", "rolled back"
KEY = re.compile(r"history\.(\d{6,})")
LONGEST = 5000  # characters: MLflow lets more pass, the column of its PostgreSQL tables does not
REASON = 240


@dataclass(frozen=True)
class Entry:
    """One decision.

    Attributes:
        over: The champion until then: the one compared with, replaced or withdrawn.
        test_rows: Digest of the test rows on which the version was judged; None in entries that were made without.
    """

    number: int
    when: str
    who: str
    flow_run: str | None
    action: str
    version: int
    over: int | None
    reasons: list[str]
    rules: str | None
    data: str | None
    commit: str | None
    test_rows: str | None = None

    @property
    def key(self) -> str:
        """The tag that holds it."""
        return f"history.{self.number:06d}"

    @property
    def moves(self) -> bool:
        """Whether it makes `version` the champion."""
        return self.action != REJECTED


def read(tags: Mapping[str, str]) -> list[Entry]:
    """The entries among a registered model's tags, oldest first.

    Raises:
        InputError: One of them was changed by other means.
    """
    texts = {int(match[1]): text for key, text in tags.items() if (match := KEY.fullmatch(key))}
    return [_entry(number, texts[number]) for number in sorted(texts)]


def _entry(number: int, text: str) -> Entry:
    try:
        return Entry(number=number, **json.loads(text))
    except (ValueError, TypeError) as error:
        raise InputError(f"history: expected an entry in the tag history.{number:06d}, got {text[:80]!r}") from error


def written(entry: Entry) -> str:
    """An entry as the text of its tag; reasons that are too long or too many are cut."""
    short = [r if len(r) <= REASON else f"{r[: REASON - 4]} ..." for r in entry.reasons]
    while len(text := _json(replace(entry, reasons=short))) > LONGEST:
        short = [*short[:-2], "..."]
    return text


def _json(entry: Entry) -> str:
    tree = asdict(entry)
    del tree["number"]
    return json.dumps(tree, ensure_ascii=False)


def standing(entries: Sequence[Entry], version: int) -> Entry | None:
    """The entry that a version's present standing comes from: about itself, or one that took its place."""
    own = (e for e in reversed(entries) if e.version == version or (e.moves and e.over == version))
    return next(own, None)


def champion(entries: Sequence[Entry]) -> int | None:
    """The version that should be the champion."""
    return next((e.version for e in reversed(entries) if e.moves), None)


def decisions(entries: Sequence[Entry], test_rows: str) -> DecisionCount:
    """How many decisions were made by the test rows of this digest, and by test rows at all.

    What a person promoted or rolled back was not decided by test rows.
    """
    judged = [entry for entry in entries if entry.action in (PROMOTED, REJECTED)]
    same = sum(entry.test_rows == test_rows for entry in judged)
    return DecisionCount(same_rows=same, all=len(judged))
