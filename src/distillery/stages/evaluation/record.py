"""``evaluation.json``: every model on the test rows, and how the student compares with the others. C classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import JsonValue

from distillery.ops.metrics import Interval
from distillery.stages.measurement.record import Costs
from distillery.stages.roles import Role
from distillery.store.record import Part, Record


class Quality(Part):
    """Accuracy and NLL of one model on test."""

    accuracy: float
    nll: float


class Gain(Part):
    """A comparison with another model, in accuracy and in NLL."""

    accuracy: Interval
    nll: Interval


class Trained(Part):
    """How a student or a baseline was trained.

    Attributes:
        setting: Values of `Setting`; None for a baseline.
        recipe: Values of `Recipe`.
        calibration_temperature: What its logits are divided by.
    """

    setting: dict[str, JsonValue] | None
    recipe: dict[str, JsonValue]
    calibration_temperature: float


class ModelRow(Costs):
    """One model: its quality on test and on val_search, and what it costs.

    Attributes:
        chosen: Whether it is the ensemble in use, or the candidate.
        recall: Share of each class's test rows that are recognised [C]; None for a class without rows.
        agreement: Share of test rows with the ensemble's top class; for students and baselines, as all that follow.
        agreement_where_ensemble_errs: The same among the rows where the ensemble is wrong; None without such rows.
        kl: Mean KL(ensemble ‖ model) in nats.
        trained: How it was trained.
    """

    role: Role
    name: str
    chosen: bool = False
    accuracy: float
    nll: float
    brier: float
    ece: float
    val_search_accuracy: float
    val_search_nll: float
    recall: list[float | None]
    agreement: float | None = None
    agreement_where_ensemble_errs: float | None = None
    kl: float | None = None
    trained: Trained | None = None

    @property
    def title(self) -> str:
        """Role and name, as in ``student mlp-32``."""
        return f"{self.role.words} {self.name}"


class ClassRow(Part):
    """One class on test.

    Attributes:
        recall: Of each compared model; None where the class has no rows.
        change: From each other model to the candidate; empty where the class has no rows.
    """

    name: str
    rows: int
    recall: dict[Role, float | None]
    change: dict[Role, Interval]


class Reliability(Part):
    """Mean `confidence`, `accuracy` and `share` of the rows of bins of equal mass."""

    confidence: list[float]
    accuracy: list[float]
    share: list[float]


class WinnersCurse(Part):
    """The NLL gain over the rival on the rows that chose the candidate, beside the gain on rows that did not."""

    val_search: float
    test: Interval
    shrank: bool


class GroupRow(Part):
    """Accuracy of the compared models on the test rows that have one value in a column."""

    column: str
    value: str
    rows: int
    accuracy: dict[Role, float]


class Groups(Part):
    """Every group, and the largest fall of accuracy below the ensemble."""

    table: list[GroupRow]
    worst: Interval


class Disturbed(Part):
    """Accuracy on disturbed rows, and how much more the candidate loses by the disturbance than the ensemble."""

    disturbance: str
    rows: int
    candidate: float
    ensemble: float
    beyond_ensemble: Interval


class Compression(Part):
    """How many times as much the ensemble takes as the candidate; None where that is not known."""

    params: float | None
    size: float | None
    macs: float | None
    latency: float | None


class ModelComparison(Part):
    """All models on test, and how the candidate compares with the ensemble and with its rivals.

    The candidate is the model that is to be shipped: the student, unless the config allows a baseline and one is better
    on val_search by more than a standard error. Its rival is the best of the others.

    Attributes:
        rows: One for each model; of the ensembles, the simple average first, then the one in use.
        rival: The best other training of the candidate's network.
        gains: Of the candidate over each other compared model; positive is better for the candidate.
        best_baseline: The better of the baselines on val_search.
        distillation: What the student gains over that baseline: whether teachers helped.
        gap_recovery: Of the student against each baseline.
        ece_over_ensemble: ECE of the candidate minus the ensemble's.
        worst_class_drop: The largest fall of a class's recall below the ensemble; its note names the class.
        seeds: Of each seed, the networks of the chosen capacity.
        groups: Where the config declares groups.
    """

    rows: Sequence[ModelRow]
    rival: Role
    gains: dict[Role, Gain]
    best_baseline: Role
    distillation: Gain
    gap_recovery: dict[Role, Gain]
    ece_over_ensemble: Interval
    worst_class_drop: Interval
    by_class: list[ClassRow]
    reliability: dict[Role, Reliability]
    winners_curse: WinnersCurse
    seeds: list[dict[Role, Quality]]
    groups: Groups | None
    robustness: list[Disturbed]
    compression: Compression

    @property
    def candidate(self) -> ModelRow:
        """The model that is to be shipped."""
        return next(row for row in self.rows if row.chosen and row.role is not Role.ENSEMBLE)

    @property
    def ensemble(self) -> ModelRow:
        """The ensemble in use."""
        return next(row for row in self.rows if row.role is Role.ENSEMBLE and row.chosen)

    def compared(self, role: Role) -> ModelRow:
        """The ensemble in use, or the student or a baseline of the candidate's capacity.

        Raises:
            KeyError: There is no baseline of this role.
        """
        if role is Role.ENSEMBLE:
            return self.ensemble
        for row in self.rows:
            if row.role is role and row.name == self.candidate.name:
                return row
        raise KeyError(role)


class EvaluationResult(Record, ModelComparison):
    """All models on the test rows.

    Attributes:
        classes: Names [C], in the order of the logits.
        test_rows: How many there are.
        test_rows_digest: Of the encoded test rows and their labels.
    """

    FILE: ClassVar[str] = "evaluation.json"

    schema_version: Literal[1] = 1
    classes: list[str]
    test_rows: int
    test_rows_digest: str
