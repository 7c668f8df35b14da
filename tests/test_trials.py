"""Trials: what one is judged by, where it is stopped, and what is said of one that fails."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from distillery.config import Recipe
from distillery.logits import cache_logits
from distillery.space import Setting
from distillery.store import Store
from distillery.students import train_baseline, train_student
from distillery.trials import Job, train_trial

SETTING = Setting(temperature=2.0, alpha=0.7, lr=0.02)


@pytest.fixture
def job(chain: SimpleNamespace) -> Job:
    """A trial of the smaller capacity, with the recipe's own five epochs."""
    config = chain.config.model_copy(update={"search": chain.config.search.model_copy(update={"epochs": None})})
    capacity = config.student.capacities[0]
    return Job(config, chain.data, chain.ensemble, tuple(chain.taught), capacity, SETTING, "cpu")


def with_recipe(job: Job, recipe: Recipe, **changes: Any) -> Job:
    """The trial with another recipe."""
    student = job.config.student.model_copy(update={"recipe": recipe})
    return replace(job, config=job.config.model_copy(update={"student": student}), **changes)


def test_a_trial_is_the_student_of_its_setting(chain: SimpleNamespace, store: Store, job: Job) -> None:
    """reference: at the same length a trial has the figures of the student, or without a teacher of the baseline."""
    config = job.config
    upstream = (chain.data, chain.ensemble, chain.taught, store)
    student = train_student(job.capacity, SETTING, config.student, config.seed, *upstream)
    baseline = train_baseline(job.capacity, SETTING, config.student, config.seed, chain.data, store)
    for handle, mine in ((student, job), (baseline, replace(job, ensemble=None, logits=()))):
        found = train_trial(mine)
        assert found["state"] == "complete" and found["curve"] == {}
        assert {k: found[k] for k in ("nll", "accuracy")} == pytest.approx(
            {k: handle.metrics[k] for k in ("nll", "accuracy")}
        )
        share = found["accuracy"]
        assert found["accuracy_se"] == pytest.approx((share * (1 - share) / 150) ** 0.5)
        assert 0 < found["nll_se"] < found["nll"]
    assert student.metrics["nll"] != baseline.metrics["nll"]


def test_rungs_only_look(job: Job) -> None:
    """reference: the curve is the student's own history, and measuring on the way changes nothing."""
    plain = train_trial(job)
    watched = train_trial(replace(job, rungs=((1, np.inf), (3, np.inf), (5, np.inf))))
    assert watched["nll"] == plain["nll"] and watched["state"] == "complete"
    assert list(watched["curve"]) == ["1", "3", "5"] and watched["curve"]["5"] == pytest.approx(watched["nll"])
    assert watched["curve"]["1"] > watched["curve"]["3"]


def test_a_trial_ends_at_the_rung_where_it_is_behind(job: Job) -> None:
    """contract: it stops where its NLL is above the limit, not where it is equal, and keeps its curve and figures."""
    curve = train_trial(replace(job, rungs=((1, np.inf), (3, np.inf))))["curve"]
    even = train_trial(replace(job, rungs=((1, curve["1"]), (3, curve["3"]))))
    assert even["state"] == "complete" and even["curve"] == curve
    behind = train_trial(replace(job, rungs=((1, curve["1"]), (3, curve["3"] - 1e-9), (4, np.inf))))
    assert behind["state"] == "stopped" and behind["curve"] == curve
    assert behind["nll"] == pytest.approx(curve["3"])


@pytest.mark.parametrize("taught", [True, False])
def test_the_length_of_a_trial(job: Job, taught: bool) -> None:
    """reference: search.epochs is the whole schedule of a trial; without it a trial is as long as the final student."""
    own = job if taught else replace(job, ensemble=None, logits=())
    short = own.config.search.model_copy(update={"epochs": 2})
    found = train_trial(replace(own, config=own.config.model_copy(update={"search": short})))
    recipe = own.config.student.recipe.model_copy(update={"epochs": 2})
    assert found["nll"] == train_trial(with_recipe(own, recipe))["nll"] != train_trial(own)["nll"]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_trial_that_diverges_fails_with_the_reason(job: Job) -> None:
    """contract: whether in the loss, at a rung or only at the end, it is `fail`, never a comparison with nan."""
    hot = replace(job, setting=SETTING.model_copy(update={"lr": 1e30}))
    found = train_trial(replace(hot, rungs=((4, np.inf),)))
    assert found["state"] == "fail" and "loss became" in found["reason"] and "lr" in found["reason"]
    assert "'lr': 1e+30" in found["reason"] and found["curve"] == {} and "nll" not in found
    one_step = Recipe(epochs=1, batch_size=300, warmup_epochs=0)  # finite weights, logits beyond float32
    for rungs in ((), ((1, np.inf),)):
        end = train_trial(with_recipe(hot, one_step, rungs=rungs))
        assert end["state"] == "fail" and "NLL on val_search became" in end["reason"] and end["curve"] == {}


def test_the_memory_between_trials_is_of_one_study(chain: SimpleNamespace, job: Job, store: Store) -> None:
    """property: a trial that follows one of another study is taught by that study's own logits."""
    first, config = train_trial(job)["nll"], chain.config.logits.model_copy(update={"dtype": "float32"})
    exact = tuple(cache_logits(m, "transfer", chain.data, config, store) for m in chain.members)
    other = train_trial(replace(job, logits=exact))["nll"]
    assert other == pytest.approx(first, abs=0.01) and other != first
    assert train_trial(job)["nll"] == first
