"""Which knobs of a study mattered: what is compared, and whether there is enough of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distillery.config.search_space import Knobs
from distillery.stages.search.proposals import SMALLEST_MEDIAN, space_of, variance_shares
from distillery.stages.search.record import Importances, Trial, TrialState

FEWEST, PER_KNOB = 20, 5  # with fewer trials, the seed of the forest decides which knob seems to matter

Judged = list[tuple[Trial, float]]


def importances(trials: Sequence[Trial], knobs: Knobs, quality: str) -> Importances:
    """Which of the searched knobs mattered.

    Compared is the quality of the trials that came to the end, or, where halving left too few of those, the NLL at the
    first rung, which all came to. Values are divided by their capacity's median, as for the proposals: how large a
    student is would explain nearly everything. An option that only one of several losses has is left out, since not
    all trials have it.

    Args:
        trials: Of the study.
        knobs: What was searched.
        quality: ``nll`` or ``error``.
    """
    several = len(getattr(knobs, "losses", ())) > 1
    space = {knob: range_ for knob, range_ in space_of(knobs).items() if not (several and "." in knob)}
    least = max(FEWEST, PER_KNOB * len(space))
    judged: Judged = [(t, t.objective(quality)) for t in trials if t.state is TrialState.COMPLETE]
    compared = quality
    epoch, at_rung = _first_rung(trials)
    if len(judged) < least <= len(at_rung):
        judged = at_rung
        compared = f"nll after {epoch} epochs"

    values = _by_median(judged)
    note = ""
    if not space:
        note = "nothing was searched"
    elif len(judged) < least:
        note = f"expected at least {least} finished trials for {len(space)} knobs, got {len(judged)}"
    elif len(set(values)) == 1:
        note = "all trials are alike"
    if note:
        return Importances(of=compared, trials=len(judged), shares={}, note=note)

    points = []
    for (trial, _), value in zip(judged, values, strict=True):
        points.append(({knob: trial.proposal[knob] for knob in space}, value))
    return Importances(of=compared, trials=len(judged), shares=variance_shares(points, space))


def _first_rung(trials: Sequence[Trial]) -> tuple[int, Judged]:
    """(its epoch, the trials that came to it with their NLL there)."""
    epoch = min((epoch for trial in trials for epoch in trial.curve), default=0)
    return epoch, [(trial, trial.curve[epoch]) for trial in trials if epoch in trial.curve]


def _by_median(judged: Judged) -> list[float]:
    values: dict[str, list[float]] = {}
    for trial, value in judged:
        values.setdefault(trial.capacity, []).append(value)
    medians = {capacity: max(float(np.median(own)), SMALLEST_MEDIAN) for capacity, own in values.items()}
    return [value / medians[trial.capacity] for trial, value in judged]
