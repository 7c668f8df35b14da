"""What a study tries next: the searched space, and a TPE that proposes points of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator

from distillery.config.search_space import Knobs, Range
from distillery.stages.search.record import Point, Trial, TrialState
from distillery.training.networks import derive_seed

START_UP = 8  # proposals at random before the TPE has enough to go on
MEMORY = 128  # trials that the TPE sees, the best and the latest: its cost grows with their number
SMALLEST_MEDIAN = 1e-12  # of a quality; others are divided by it

Space = dict[str, BaseDistribution]


def space_of(knobs: Knobs) -> Space:
    """What varies between the trials of a capacity, by Optuna's names; an option of a loss is ``loss.option``."""
    space: Space = {}
    for name, given in knobs.ranges().items():
        if isinstance(given, Range):
            space[name] = _distribution(given)

    losses = getattr(knobs, "losses", ())
    if len(losses) > 1:
        space["loss"] = CategoricalDistribution([loss.name for loss in losses])
    for loss in losses:
        for option, given in loss.options.items():
            if isinstance(given, Range):
                space[f"{loss.name}.{option}"] = _distribution(given)
    return space


def _distribution(space: Range) -> BaseDistribution:
    return FloatDistribution(space.low, space.high, log=space.log)


class Proposals:
    """Proposes points of the space from the finished trials of all capacities.

    Equal arguments and equal calls give equal proposals: nothing but trials of earlier rounds is looked at.

    Args:
        knobs: What is searched.
        quality: What the trials are judged by, ``nll`` or ``error``.
        seed: Of the experiment.
        capacities: How many there are; trials go to them in turn.
        before: The trials of earlier rounds.
    """

    def __init__(self, knobs: Knobs, quality: str, seed: int, capacities: int, before: Sequence[Trial]) -> None:
        self._knobs = knobs
        self._seed = seed
        self._capacities = capacities
        self._space = space_of(knobs)
        self._seen = optuna.create_study()
        for trial, value in seen_trials(before, quality) if self._space else []:
            point = optuna.trial.create_trial(params=dict(trial.proposal), distributions=self._space, value=value)
            self._seen.add_trial(point)

    def propose(self, number: int) -> Point:
        """Values of the searched knobs for the trial of this number."""
        if not self._space:
            return {}
        self._seen.sampler = optuna.samplers.TPESampler(
            seed=derive_seed(self._seed, "trial", number), n_startup_trials=START_UP, multivariate=True
        )
        proposal: Point = dict(self._seen.ask(self._space).params)

        # The first trials of every capacity take the points that the config names, as far as they lie in the space.
        turn = number // self._capacities
        if turn < len(self._knobs.initial_points):
            for knob, value in self._knobs.initial_points[turn].items():
                if knob in self._space and _holds(self._space[knob], value):
                    proposal[knob] = value
        return proposal


def seen_trials(before: Sequence[Trial], quality: str) -> list[tuple[Trial, float]]:
    """The trials that the TPE is to see, each with a value that is comparable between capacities.

    A quality is divided by the median of its capacity; a stopped trial counts as the worst complete one. Of many
    trials the best and the latest are seen. A capacity without a complete trial is left out.
    """
    scored: list[tuple[Trial, float]] = []
    for capacity in dict.fromkeys(trial.capacity for trial in before):
        trials = [t for t in before if t.capacity == capacity and t.state is not TrialState.FAILED]
        values = {t.number: t.objective(quality) for t in trials if t.state is TrialState.COMPLETE}
        if not values:
            continue
        median = max(float(np.median(list(values.values()))), SMALLEST_MEDIAN)
        worst = max(values.values())
        for trial in trials:
            scored.append((trial, values.get(trial.number, worst) / median))

    best = sorted(scored, key=lambda pair: pair[1])[: MEMORY // 4]
    latest = sorted(scored, key=lambda pair: pair[0].number)[-(MEMORY - len(best)) :]
    chosen = {trial.number: (trial, value) for trial, value in best + latest}
    return [chosen[number] for number in sorted(chosen)]


def _holds(space: BaseDistribution, value: int | float | str) -> bool:
    return bool(space._contains(space.to_internal_repr(value)))


def variance_shares(trials: Sequence[tuple[Mapping[str, int | float | str], float]], space: Space) -> dict[str, float]:
    """Share of the values' variance that each knob explains alone, largest first; the rest belongs to several at once.

    Functional ANOVA over a random forest (Hutter, Hoos and Leyton-Brown 2014).

    Args:
        trials: The values of the knobs, and what came of them.
        space: Where each knob was searched.
    """
    study = optuna.create_study()
    for params, value in trials:
        study.add_trial(optuna.trial.create_trial(params=dict(params), distributions=space, value=value))
    shares = FanovaImportanceEvaluator(seed=0).evaluate(study)
    return {knob: float(share) for knob, share in shares.items()}
