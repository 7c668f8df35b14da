"""``report.json``: everything a reader needs to judge a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import JsonValue

from distillery.stages.ensemble.record import CandidateRow, Diversity, Pruning
from distillery.stages.evaluation.record import ModelComparison, ModelRow
from distillery.stages.export.record import ExportFigures, ServedModel
from distillery.stages.promotion.record import Promotion
from distillery.stages.report.advice import Advice
from distillery.stages.report.cost_ledger import Ledger, Passes
from distillery.stages.roles import Role
from distillery.stages.search.record import Importances, Trial
from distillery.store.record import Part, Record


class ReportRow(ModelRow):
    """A model; of the candidate, also what the exported file has and takes (see `ExportFigures`)."""

    onnx_mb: float | None = None
    request_ms_p50: float | None = None
    request_ms_p95: float | None = None
    request_ms_p99: float | None = None
    requests_per_s: float | None = None


class TeacherSettings(Part):
    """How a teacher was made: values of `Teacher` and of `Recipe`."""

    model: dict[str, JsonValue]
    recipe: dict[str, JsonValue]


class EnsembleSummary(Part):
    """The ensemble in use; see `EnsembleChoice`.

    Attributes:
        members: The weight of each member.
        temperature: After pooling.
    """

    weighting: str
    pool: str
    temperature: float
    members: dict[str, float]
    reason: str
    candidates: list[CandidateRow]
    diversity: Diversity
    pruning: Pruning | None
    left_out: dict[str, str]
    notes: list[str]


class Study(Part):
    """A study; see `SearchResult`."""

    study: str
    objectives: tuple[str, ...]
    trials: list[Trial]
    front: list[int]
    ranked: dict[str, list[int]]
    chosen: str
    importances: Importances

    @property
    def quality(self) -> str:
        """What trials are judged by: ``nll`` or ``error``."""
        return self.objectives[0]


class DataSummary(Part):
    """The rows.

    Attributes:
        rows: How many there are in each split.
        folds: Of train, where teachers answer its rows fold by fold; 0 where val_ensemble is held out.
        search_by_folds: Whether students do so as well, in the place of a val_search that is held out.
        classes: How many there are.
        skipped: How many rows could not be read.
        skipped_rows: Their names.
        notes: A sentence for each thing that was left out, rewritten or looks wrong.
        test_rows_digest: Of the encoded test rows and their labels.
    """

    rows: dict[str, int]
    folds: int
    search_by_folds: bool
    classes: int
    skipped: int
    skipped_rows: list[str]
    notes: list[str]
    test_rows_digest: str


class LogitEncoding(Part):
    """What encoded logits lose: the largest of the members' mean KL in nats, by temperature."""

    bytes_per_row: int
    kl: dict[str, float]
    kl_rows: int


class RunPages(Part):
    """The pages of the parent run in MLflow."""

    id: str
    url: str
    report: str


class Report(Record, ModelComparison):
    """The result of a run.

    Attributes:
        rows: One for each model; of the ensembles, the simple average first, then the one in use.
        classes: Names, in the order of the logits.
        teachers: By name.
        served: The exported student and its int8 twin.
        config: The whole experiment.
        store: The stage directories of the main stages, by stage.
        encoding: None where logits are kept exactly.
        seconds: Of each stage, computed or found, and the `total` of this run on the clock.
        cached: Stages of which nothing was computed in this run.
        mlflow_run: None for a run that is kept nowhere.
        price_per_hour: Of one process; None if nobody said.
    """

    FILE: ClassVar[str] = "report.json"

    schema_version: Literal[1] = 1
    name: str
    rows: Sequence[ReportRow]
    classes: list[str]
    teachers: dict[str, TeacherSettings]
    weights: EnsembleSummary
    search: Study
    baseline_search: Study
    export: ExportFigures
    served: list[ServedModel]
    promotion: Promotion
    data: DataSummary
    config: dict[str, JsonValue]
    store: dict[str, str]
    encoding: LogitEncoding | None
    passes: Passes
    ledger: Ledger
    seconds: dict[str, float]
    cached: list[str]
    advice: Advice
    mlflow_run: RunPages | None = None
    price_per_hour: float | None = None

    @property
    def candidate(self) -> ReportRow:
        """The model that is to be shipped, with what its exported file has and takes."""
        return next(row for row in self.rows if row.chosen and row.role is not Role.ENSEMBLE)
