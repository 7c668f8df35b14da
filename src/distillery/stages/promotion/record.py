"""What was decided about a candidate, as it stands in the report."""

from __future__ import annotations

from distillery.stages.promotion.gates import Verdict
from distillery.store.record import Part


class DecisionCount(Part):
    """How many decisions on promotion were made by the same test rows, and how many about the model in all."""

    same_rows: int
    all: int


class Promotion(Part):
    """The decision about a candidate.

    Attributes:
        version: In the model registry; None where nothing is registered.
        reasons: What was said, a sentence for each gate and for the champion.
        gates: What each gate found.
        decisions: How often these test rows have decided so far; None without a registry.
    """

    promoted: bool
    version: int | None
    reasons: list[str]
    gates: list[Verdict]
    decisions: DecisionCount | None

    @property
    def is_fit(self) -> bool:
        """Whether no gate failed, whatever the champion."""
        return all(gate.passed is not False for gate in self.gates)
