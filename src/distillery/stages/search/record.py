"""``search.json``: all trials of a study, and the capacity that it chose."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from distillery.config.search_space import Setting
from distillery.stages.measurement.record import Profile
from distillery.store.record import Part, Record

Point = dict[str, int | float | str]
"""Values of the searched knobs, by Optuna's names."""


class TrialState(StrEnum):
    """How a trial ended: at its last epoch, by halving, or by divergence."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    FAILED = "fail"


class Outcome(Part):
    """What came of a trial.

    Attributes:
        state: How it ended.
        curve: NLL on val_search at each rung that it reached, by epoch.
        reason: Why it failed; None for others.
        seconds: Of training, its share where several trained together.
        nll: On val_search, of the calibrated network, with its standard error; None for a failed trial.
        accuracy: Likewise.
    """

    state: TrialState
    curve: dict[int, float]
    reason: str | None = None
    seconds: float | None = None
    nll: float | None = None
    nll_se: float | None = None
    accuracy: float | None = None
    accuracy_se: float | None = None


class Trial(Profile, Outcome):
    """One trial: what was tried, what came of it, and what its capacity costs.

    Attributes:
        number: In the study, from 0.
        capacity: Name of the capacity.
        setting: Every setting of the training; values of `Setting`.
        proposal: The part of the setting that was searched.
    """

    number: int
    capacity: str
    setting: dict[str, JsonValue]
    proposal: Point = Field(default_factory=dict)

    def as_setting(self) -> Setting:
        """The setting, checked."""
        return Setting.model_validate(self.setting)

    def quality(self, objective: str) -> float | None:
        """``nll`` or ``error`` on val_search, where the trial ended or was stopped; None if it failed."""
        if self.nll is None or self.accuracy is None:
            return None
        return self.nll if objective == "nll" else 1 - self.accuracy

    def objective(self, name: str) -> float:
        """The value of one objective of a trial that did not fail; all are minimised."""
        values = {
            "nll": self.quality("nll"),
            "error": self.quality("error"),
            "latency_ms": self.latency_ms_p50,
            "params": self.params,
            "macs": self.macs,
        }
        value = values[name]
        assert value is not None, f"trial {self.number} has no {name}: it failed"
        return float(value)


class SearchResult(Record):
    """A finished study.

    Attributes:
        study: Its name in Optuna's storage.
        objectives: What was minimised; the first one is the quality.
        trials: All trials, by number.
        front: Numbers of the trials that no other beats in every objective.
        ranked: Numbers of the complete trials of each capacity, best first.
        chosen: The capacity to ship.
    """

    FILE: ClassVar[str] = "search.json"

    schema_version: Literal[1] = 1
    study: str
    objectives: tuple[str, ...]
    trials: list[Trial]
    front: list[int]
    ranked: dict[str, list[int]]
    chosen: str

    @property
    def trials_of_chosen(self) -> int:
        """How many trials the chosen capacity had."""
        return sum(trial.capacity == self.chosen for trial in self.trials)

    def best_settings(self, capacity: str, count: int = 1) -> list[Setting]:
        """The `count` best different settings of a capacity, best first; fewer if there are not so many."""
        settings: list[Setting] = []
        for number in self.ranked[capacity]:
            setting = self.trials[number].as_setting()
            if setting not in settings:
                settings.append(setting)
        return settings[:count]


class Importances(Part):
    """Which knobs of a study mattered.

    Attributes:
        method: How that was found out.
        of: What was compared.
        trials: How many trials were compared.
        shares: Share of the variance that each knob explains alone, largest first.
        note: Why there are no shares; empty where there are.
    """

    method: str = "fANOVA"
    of: str
    trials: int
    shares: dict[str, float]
    note: str = ""
