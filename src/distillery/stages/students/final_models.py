"""The networks that are judged on test: every capacity's student and baselines, several seeds of the chosen one's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distillery.config.experiment import Capacity, Experiment
from distillery.stages.data.dataset import Dataset
from distillery.stages.search.student_search import best_settings, quality_of, select
from distillery.stages.students.student_training import Wanted
from distillery.store import Handle
from distillery.training.networks import derive_seed
from distillery.training.stack_size import stacks

Promise = Callable[[], list[Handle]]
"""Waits for networks that are in training."""

Taught = Callable[[Capacity, list[Wanted]], Promise]
Untaught = Callable[[str, Capacity, list[Wanted]], Promise]
"""(role, capacity, what is wanted); the role is ``plain`` or ``tuned``."""


@dataclass(frozen=True)
class Finals:
    """The trained networks of one capacity, one per seed, the best on val_search first; that student is shipped.

    Attributes:
        plain: Labels alone, the student's own recipe.
        tuned: Labels alone, a recipe searched for that; only of the chosen capacity.
    """

    capacity: str
    students: tuple[Handle, ...]
    plain: tuple[Handle, ...]
    tuned: tuple[Handle, ...] = ()

    def key(self) -> list[Any]:
        """What tells these from others."""
        return [self.capacity, *([h.fingerprint for h in part] for part in (self.students, self.plain, self.tuned))]


def train_finals(
    config: Experiment, data: Handle, search: Handle, alone: Handle, taught: Taught, untaught: Untaught
) -> list[Finals]:
    """One `Finals` per capacity that was searched.

    Of the chosen capacity the best settings are trained at full length with several seeds; the mean on val_search
    decides between them, and of its networks the best one on val_search comes first: it is shipped, or compared with.
    The tuned baseline is chosen in the same way, among settings searched without a teacher.

    Args:
        config: The experiment.
        data: Stage `data`.
        search: The study of students.
        alone: The study without a teacher.
        taught: Begins to train students.
        untaught: Begins to train baselines.
    """
    found, kind = search.json("search.json"), Dataset(data).spec.kind
    chosen = next(c for c in config.student.capacities if c.name == found["chosen"])
    others = [c for c in config.student.capacities if c.name in found["ranked"] and c is not chosen]

    def with_teacher(capacity: Capacity, wanted: list[Wanted]) -> list[Promise]:
        return [taught(capacity, mine) for mine in _in_one_go(capacity, kind, wanted)]

    def without(role: str, capacity: Capacity, wanted: list[Wanted]) -> list[Promise]:
        return [untaught(role, capacity, mine) for mine in _in_one_go(capacity, kind, wanted)]

    seeds = [config.seed, *(derive_seed(config.seed, "repeat", n) for n in range(1, config.search.seeds))]
    settings, labels_only = (best_settings(h, chosen.name, config.search.finalists) for h in (search, alone))
    if config.search.epochs is not None:
        # Labels alone overfit sooner: the rival is also trained no longer than the trials that found its setting.
        labels_only += [setting.model_copy(update={"epochs": config.search.epochs}) for setting in labels_only]
    students = with_teacher(chosen, [Wanted(setting, seed) for setting in settings for seed in seeds])
    tuned = without("tuned", chosen, [Wanted(setting, seed) for setting in labels_only for seed in seeds])
    singles = []
    for capacity in others:
        own = [Wanted(best_settings(search, capacity.name)[0], seeds[0])]
        singles.append((capacity.name, with_teacher(capacity, own), without("plain", capacity, own)))

    trained = _by_setting(students, len(seeds))
    best = select(trained, config.search.objectives[0])
    plain = without("plain", chosen, [Wanted(settings[best], seed) for seed in seeds])
    rivals = _by_setting(tuned, len(seeds))
    rival = rivals[select(rivals, config.search.objectives[0])]
    finals = [Finals(name, *(_by_setting(promises, 1)[0] for promises in both)) for name, *both in singles]
    roles = (trained[best], _by_setting(plain, len(seeds))[0], rival)
    finals.append(Finals(chosen.name, *(_best_first(role, config.search.objectives[0]) for role in roles)))
    return sorted(finals, key=lambda f: [c.name for c in config.student.capacities].index(f.capacity))


def _in_one_go(capacity: Capacity, kind: str, wanted: list[Wanted]) -> list[list[Wanted]]:
    return [wanted] if stacks(capacity, kind) else [[one] for one in wanted]


def _best_first(networks: tuple[Handle, ...], objective: str) -> tuple[Handle, ...]:
    return tuple(sorted(networks, key=lambda h: quality_of(h, objective)))


def _by_setting(promises: Sequence[Promise], seeds: int) -> list[tuple[Handle, ...]]:
    """The networks of each setting, one per seed."""
    handles = [handle for promise in promises for handle in promise()]
    return [tuple(handles[start : start + seeds]) for start in range(0, len(handles), seeds)]
