"""Which networks are trained at full length, and which of them are judged on test.

A plan says what to train; somebody trains it; then the networks are picked by what they reach on val_search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from distillery.config.experiment import Capacity, Experiment
from distillery.config.search_space import Setting
from distillery.stages.data.dataset import Dataset
from distillery.stages.roles import Role
from distillery.stages.search.record import SearchResult
from distillery.stages.search.student_search import quality_of, select, standard_error_of
from distillery.stages.students.student_training import TrainingRequest
from distillery.store import Handle
from distillery.training.networks import derive_seed
from distillery.training.stack_size import stacks


@dataclass(frozen=True)
class FinalModels:
    """The trained networks of one capacity, one per seed, the best on val_search first.

    Attributes:
        plain: Labels alone, the student's own recipe.
        tuned: Labels alone, a recipe searched for that; only of the chosen capacity.
        candidate: The role whose first network is to be shipped, of the chosen capacity.
    """

    capacity: str
    students: tuple[Handle, ...]
    plain: tuple[Handle, ...]
    tuned: tuple[Handle, ...] = ()
    candidate: Role = Role.STUDENT

    def of(self, role: Role) -> tuple[Handle, ...]:
        """The networks of a role."""
        return {Role.STUDENT: self.students, Role.PLAIN: self.plain, Role.TUNED: self.tuned}[role]

    def key(self) -> list[object]:
        """Parts of the fingerprint."""
        parts: list[object] = [self.capacity, self.candidate]
        for role in (Role.STUDENT, Role.PLAIN, Role.TUNED):
            parts.append([handle.fingerprint for handle in self.of(role)])
        return parts


@dataclass(frozen=True)
class TrainingGroup:
    """Networks of one capacity and role that are trained by one call."""

    role: Role
    capacity: Capacity
    requests: tuple[TrainingRequest, ...]


@dataclass(frozen=True)
class FinalPlan:
    """What is trained before the best setting of the chosen capacity is known.

    Attributes:
        chosen: The capacity that the search chose.
        kind: Of the data, ``table`` or ``image``.
        objective: What decides on val_search.
        seeds: Of the repeats.
        settings: The best settings of the chosen capacity, best first.
        students: Students of the chosen capacity: every setting with every seed.
        tuned: Its baselines, with the best settings of the search without a teacher.
        others: A student and a plain baseline of every other capacity.
        order: Names of the capacities, as in the config.
        ship: What may be shipped: ``best`` or ``student``.
    """

    chosen: Capacity
    kind: str
    objective: str
    seeds: tuple[int, ...]
    settings: tuple[Setting, ...]
    students: list[TrainingGroup]
    tuned: list[TrainingGroup]
    others: list[TrainingGroup]
    order: tuple[str, ...]
    ship: Literal["best", "student"] = "best"

    def plain(self, students: Sequence[Handle]) -> list[TrainingGroup]:
        """The plain baselines of the chosen capacity, with the setting of its best students.

        Args:
            students: The trained networks of `self.students`, in their order.
        """
        best = self.settings[select(self._by_setting(students), self.objective)]
        requests = [TrainingRequest(best, seed) for seed in self.seeds]
        return _groups(Role.PLAIN, self.chosen, requests, self.kind)

    def pick(
        self,
        students: Sequence[Handle],
        tuned: Sequence[Handle],
        plain: Sequence[Handle],
        others: Sequence[Handle],
    ) -> list[FinalModels]:
        """The models of every capacity that are judged on test, in the order of the config.

        Of the chosen capacity the mean over seeds on val_search decides between settings; of the networks of the best
        setting, the best one comes first. The tuned baseline is picked in the same way.

        Args:
            students: The trained networks of `self.students`, in their order; the others likewise.
            tuned: Of `self.tuned`.
            plain: Of what `self.plain` returned.
            others: Of `self.others`.
        """
        finals = []
        for group, student, baseline in zip(self.others[::2], others[::2], others[1::2], strict=True):
            finals.append(FinalModels(group.capacity.name, (student,), (baseline,)))

        students_of_best = self._best(students)
        final = FinalModels(self.chosen.name, students_of_best, self._best_first(plain), self._best(tuned))
        finals.append(replace(final, candidate=self._candidate(final)))
        return sorted(finals, key=lambda final: self.order.index(final.capacity))

    def _candidate(self, final: FinalModels) -> Role:
        """The student, unless a baseline is better on val_search by more than one standard error.

        Both are means over seeds; the standard error is that of the student over rows.
        """
        if self.ship == "student":
            return Role.STUDENT
        means = {}
        for role in (Role.STUDENT, Role.TUNED, Role.PLAIN):
            networks = final.of(role)
            if networks:
                means[role] = np.mean([quality_of(network, self.objective) for network in networks])
        spread = np.mean([standard_error_of(network, self.objective) for network in final.students])
        best = min(means, key=lambda role: means[role])
        return best if means[best] < means[Role.STUDENT] - spread else Role.STUDENT

    def _best(self, networks: Sequence[Handle]) -> tuple[Handle, ...]:
        """The networks of the best setting, the best one first."""
        settings = self._by_setting(networks)
        return self._best_first(settings[select(settings, self.objective)])

    def _best_first(self, networks: Sequence[Handle]) -> tuple[Handle, ...]:
        return tuple(sorted(networks, key=lambda handle: quality_of(handle, self.objective)))

    def _by_setting(self, networks: Sequence[Handle]) -> list[tuple[Handle, ...]]:
        count = len(self.seeds)
        return [tuple(networks[start : start + count]) for start in range(0, len(networks), count)]


def plan_final_models(config: Experiment, data: Handle, search: Handle, baseline_search: Handle) -> FinalPlan:
    """Plans what is trained at full length.

    Of the chosen capacity the best settings are trained with several seeds; of every other capacity that was searched,
    the best setting with one.

    Args:
        config: The experiment.
        data: Stage `data`.
        search: The study of students.
        baseline_search: The study without a teacher.
    """
    result = SearchResult.read(search)
    labels_only_result = SearchResult.read(baseline_search)
    kind = Dataset(data).spec.kind
    chosen = next(c for c in config.student.capacities if c.name == result.chosen)
    others = [c for c in config.student.capacities if c.name in result.ranked and c is not chosen]

    repeats = [derive_seed(config.seed, "repeat", number) for number in range(1, config.search.seeds)]
    seeds = (config.seed, *repeats)
    settings = result.best_settings(chosen.name, config.search.finalists)
    labels_only = labels_only_result.best_settings(chosen.name, config.search.finalists)
    if config.search.epochs is not None:
        # Labels alone overfit sooner: the rival is also trained no longer than the trials that found its setting.
        labels_only += [setting.model_copy(update={"epochs": config.search.epochs}) for setting in labels_only]

    single: list[TrainingGroup] = []
    for capacity in others:
        request = TrainingRequest(result.best_settings(capacity.name)[0], config.seed)
        single.append(TrainingGroup(Role.STUDENT, capacity, (request,)))
        single.append(TrainingGroup(Role.PLAIN, capacity, (request,)))

    return FinalPlan(
        chosen=chosen,
        kind=kind,
        objective=config.search.objectives[0],
        seeds=seeds,
        settings=tuple(settings),
        students=_groups(Role.STUDENT, chosen, _requests(settings, seeds), kind),
        tuned=_groups(Role.TUNED, chosen, _requests(labels_only, seeds), kind),
        others=single,
        order=tuple(capacity.name for capacity in config.student.capacities),
        ship=config.ship,
    )


def _requests(settings: Sequence[Setting], seeds: Sequence[int]) -> list[TrainingRequest]:
    requests = []
    for setting in settings:
        requests += [TrainingRequest(setting, seed) for seed in seeds]
    return requests


def _groups(role: Role, capacity: Capacity, requests: Sequence[TrainingRequest], kind: str) -> list[TrainingGroup]:
    """One group where the capacity's networks can be stacked, else one for each network."""
    if stacks(capacity, kind):
        return [TrainingGroup(role, capacity, tuple(requests))]
    return [TrainingGroup(role, capacity, (request,)) for request in requests]
