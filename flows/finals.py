"""The networks that are judged on test: every capacity's student and baselines, several seeds of the chosen one's."""

from __future__ import annotations

from typing import Any

from distillery.config import Capacity
from distillery.evaluate import Finals
from distillery.search import best_settings, select
from distillery.store import Handle
from distillery.teachers import derive_seed
from flows import stages


def train_finals(
    ctx: stages.Context, data: Handle, ensemble: Handle, logits: list[Handle], search: Handle, alone: Handle
) -> list[Finals]:
    """One `Finals` per capacity that was searched.

    Of the chosen capacity the best settings are trained at full length with several seeds; the mean on val_search
    decides between them. The tuned baseline is chosen in the same way, among settings searched without a teacher.
    """
    found, config = search.json("search.json"), ctx.config
    chosen = next(c for c in config.student.capacities if c.name == found["chosen"])
    others = [c for c in config.student.capacities if c.name in found["ranked"] and c is not chosen]

    def taught(capacity: Capacity, setting: Any, seed: int) -> Any:
        return stages.train_student.submit(ctx, capacity, setting, seed, data, ensemble, logits)

    def untaught(role: str, capacity: Capacity, setting: Any, seed: int) -> Any:
        return stages.train_baseline.submit(ctx, role, capacity, setting, seed, data)

    seeds = [config.seed, *(derive_seed(config.seed, "repeat", n) for n in range(1, config.search.seeds))]
    settings, labels_only = (best_settings(h, chosen.name, config.search.finalists) for h in (search, alone))
    if config.search.epochs is not None:
        # Labels alone overfit sooner: the rival is also trained no longer than the trials that found its setting.
        labels_only += [setting.model_copy(update={"epochs": config.search.epochs}) for setting in labels_only]
    students = [[taught(chosen, setting, seed) for seed in seeds] for setting in settings]
    tuned = [[untaught("tuned", chosen, setting, seed) for seed in seeds] for setting in labels_only]
    singles = []
    for capacity in others:
        setting = best_settings(search, capacity.name)[0]
        singles.append((capacity, taught(capacity, setting, seeds[0]), untaught("plain", capacity, setting, seeds[0])))

    trained = [[task.result() for task in tasks] for tasks in students]
    best = select(trained, config.search.objectives[0])
    plain = [untaught("plain", chosen, settings[best], seed) for seed in seeds]
    rivals = [[task.result() for task in tasks] for tasks in tuned]
    rival = rivals[select(rivals, config.search.objectives[0])]
    finals = [Finals(c.name, (student.result(),), (base.result(),)) for c, student, base in singles]
    mine = Finals(chosen.name, tuple(trained[best]), tuple(task.result() for task in plain), tuple(rival))
    return sorted([*finals, mine], key=lambda f: [c.name for c in config.student.capacities].index(f.capacity))
