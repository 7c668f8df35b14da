"""The finished stages of the tiny experiment, as the fixtures of conftest.py hand them to tests."""

from __future__ import annotations

from dataclasses import dataclass

from distillery.config.experiment import Experiment
from distillery.config.search_space import Setting
from distillery.flows.pipeline import EnsembleResults
from distillery.flows.tasks.context import Context
from distillery.sources import Rows
from distillery.stages.data.dataset import Dataset
from distillery.stages.evaluation.inputs import Inputs
from distillery.stages.evaluation.record import EvaluationResult
from distillery.stages.search.record import SearchResult
from distillery.stages.students.final_models import FinalModels
from distillery.store import Handle, Store


@dataclass
class Chain:
    """Stages `data` to `ensemble`.

    Attributes:
        logits: Of all members on every split.
        taught: Of the members that count, on the transfer set.
    """

    ctx: Context
    config: Experiment
    store: Store
    rows: Rows
    results: EnsembleResults
    data: Handle
    dataset: Dataset
    members: list[Handle]
    logits: dict[str, list[Handle]]
    ensemble: Handle
    taught: list[Handle]
    profiles: list[Handle]


@dataclass
class FinishedChain(Chain):
    """Stages `data` to `evaluation`.

    Attributes:
        search: The study of students.
        alone: The study without a teacher.
        chosen: The capacity to ship.
        settings: What the first student of each capacity was trained with.
    """

    search: Handle
    alone: Handle
    chosen: str
    finals: list[FinalModels]
    settings: dict[str, Setting]
    inputs: Inputs
    evaluation: Handle

    @property
    def searched(self) -> SearchResult:
        """search.json of the study of students."""
        return SearchResult.read(self.search)

    @property
    def searched_alone(self) -> SearchResult:
        """search.json of the study without a teacher."""
        return SearchResult.read(self.alone)

    @property
    def evaluated(self) -> EvaluationResult:
        """evaluation.json."""
        return EvaluationResult.read(self.evaluation)
