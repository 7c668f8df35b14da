"""What stage `evaluation` is given."""

from __future__ import annotations

from dataclasses import dataclass

from distillery.stages.students.final_models import FinalModels
from distillery.store import Handle


@dataclass(frozen=True)
class Inputs:
    """Everything that is judged.

    Attributes:
        members: Stage `teachers`, all of them.
        val_logits: Their logits on val_search.
        test_logits: Their logits on test.
        ensemble: Stage `ensemble`.
        finals: Per capacity.
        chosen: The capacity to ship.
        data: Stage `data`.
        profiles: Stage `profile` of each capacity.
    """

    members: list[Handle]
    val_logits: list[Handle]
    test_logits: list[Handle]
    ensemble: Handle
    finals: list[FinalModels]
    chosen: str
    data: Handle
    profiles: list[Handle]

    def key(self) -> list[object]:
        """Parts of the fingerprint."""
        handles = [*self.members, *self.val_logits, *self.test_logits, self.ensemble, self.data]
        return [[h.fingerprint for h in handles], [f.key() for f in self.finals], self.chosen]
