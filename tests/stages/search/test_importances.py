"""Importances of knobs, against Optuna on the same trials."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from trials import a_trial

from distillery.config.search_space import LossSpace, Range, Search
from distillery.stages.search.importances import FEWEST, importances
from distillery.stages.search.record import Trial, TrialState

KNOBS = Search(temperature=Range(low=1, high=8, log=True), alpha=Range(low=0.3, high=1), initial_points=())
SPACE = {"temperature": FloatDistribution(1, 8, log=True), "alpha": FloatDistribution(0.3, 1)}


def trials(
    count: int, quality: Any, *, state: str = "complete", seed: int = 0, curve: bool = True, **more: Any
) -> list[Trial]:
    """Trials at random of two capacities, the second one ten times as bad; `quality` of a proposal is their NLL."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        proposal = {"temperature": 2 ** generator.uniform(0, 3), "alpha": generator.uniform(0.3, 1)}
        nll = quality(proposal) * (10 if number % 2 else 1)
        values = {"number": number, "proposal": proposal | more, "state": state, "nll": nll, "accuracy": 0.5}
        found.append(a_trial("large" if number % 2 else "small", curve={3: nll, 7: 0.1} if curve else {}, **values))
    return found


def test_shares_are_optunas() -> None:
    """reference: fANOVA with seed 0 on a study of these proposals, whose values were divided by the medians by hand."""
    seen = trials(40, lambda p: p["alpha"] ** 2 + 0.02 * p["temperature"])
    medians = {c: np.median([t.nll for t in seen if t.capacity == c]) for c in ("small", "large")}
    study = optuna.create_study()
    for t in seen:
        value = t.nll / medians[t.capacity]
        study.add_trial(optuna.trial.create_trial(params=t.proposal, distributions=SPACE, value=value))
    found = importances(seen, KNOBS, "nll")
    assert found.shares == pytest.approx(FanovaImportanceEvaluator(seed=0).evaluate(study))
    assert (found.method, found.of, found.trials, found.note) == ("fANOVA", "nll", 40, "")
    assert next(iter(found.shares)) == "alpha" and found.shares["alpha"] > 0.7


def test_too_few_trials_are_said_so() -> None:
    """contract: no shares, and how many there are."""
    found = importances(trials(FEWEST - 1, lambda p: p["alpha"]), KNOBS, "nll")
    assert found.shares == {}
    assert found.note == f"expected at least {FEWEST} finished trials for 2 knobs, got {FEWEST - 1}"


def test_where_few_came_to_the_end_the_first_rung_is_compared() -> None:
    """property: it is said, and the shares are those of the NLL there; trials that never came to it are left out."""
    stopped = trials(30, lambda p: p["temperature"], state="stopped")
    lost = trials(3, lambda p: 9.0, state="fail", seed=1, curve=False)
    found = importances([*stopped, *lost], KNOBS, "nll")
    assert (found.of, found.trials) == ("nll after 3 epochs", 30)
    ended = [trial.model_copy(update={"state": TrialState.COMPLETE}) for trial in stopped]
    assert found.shares == importances(ended, KNOBS, "nll").shares


def test_an_option_of_one_of_several_losses_is_left_out() -> None:
    """property: only knobs that all trials have; the loss is one of them."""
    losses = (
        LossSpace(name="kd"),
        LossSpace(name="wttm"),
        LossSpace(name="mse", options={"clip": Range(low=1, high=4)}),
    )
    knobs = KNOBS.model_copy(update={"losses": losses})
    seen = trials(40, lambda p: p["alpha"], loss="kd", **{"mse.clip": 2.0})
    assert set(importances(seen, knobs, "nll").shares) == {"temperature", "alpha", "loss"}
    alone = KNOBS.model_copy(update={"losses": losses[2:]})
    assert "mse.clip" in importances(seen, alone, "nll").shares


def test_nothing_is_made_of_nothing() -> None:
    """edge: no searched knob; trials that do not differ."""
    fixed = KNOBS.model_copy(update={"temperature": 2.0, "alpha": 0.5})
    assert importances(trials(40, lambda p: 1.0), fixed, "nll").note == "nothing was searched"
    assert importances(trials(40, lambda p: 1.0), KNOBS, "nll").note == "all trials are alike"
