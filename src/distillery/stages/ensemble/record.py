"""``ensemble.json``: the candidates that were tried, and the one in use. M members, C classes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distillery.store.record import Part, Record


class CandidateRow(Part):
    """A weighting and a pool, and what they are worth on rows that they were not fitted on."""

    weighting: str
    pool: str
    weights: list[float]
    accuracy: float
    nll: float
    brier: float
    ece: float
    temperature: float
    nll_plain: float
    nll_calibrated: float
    nll_gain: float
    nll_gain_low: float
    nll_gain_high: float
    coefficients: list[list[float]] | None = None
    """The linear map [M·C + 1, C] of stacking, where that is in use; `weights` are then the members' influence."""


class Change(Part):
    """How much a figure of the ensemble rises without one member."""

    nll: float
    accuracy: float


class Diversity(Part):
    """How much the members differ; see `diversity`."""

    pooling: str
    rows: int
    disagreement: list[list[float]]
    mean_disagreement: float | None
    q_statistic: float | None
    error_correlation: float | None
    double_fault: float | None
    member_nll: list[float]
    mean_member_nll: float
    ensemble_nll: float
    ambiguity: float
    without: list[Change | None]


class Pruning(Part):
    """What pruning would do, or has done where it is `applied`."""

    applied: bool
    kept: list[str]
    dropped: list[str]
    nll_before: float
    nll_after: float
    nll_loss: float
    nll_loss_high: float
    cost_saved: float


class EnsembleChoice(Record):
    """How the members are pooled, and why."""

    FILE: ClassVar[str] = "ensemble.json"

    schema_version: Literal[1] = 1
    members: list[str]
    table: list[CandidateRow]
    chosen: int
    reason: str
    left_out: dict[str, str]
    diversity: Diversity
    pruning: Pruning | None
    pruning_note: str
    notes: list[str] = Field(default_factory=list)

    @property
    def used(self) -> CandidateRow:
        """The candidate in use."""
        return self.table[self.chosen]

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each member in use, by name."""
        return dict(zip(self.members, self.used.weights, strict=True))
