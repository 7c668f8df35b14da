"""Trials: what one is judged by, where it is stopped, and what is said of one that fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny_chain import Chain
from trials import proposed

from distillery.config.experiment import Recipe
from distillery.config.search_space import Halving, Loss, Setting
from distillery.stages.logits.logit_cache import cache_logits
from distillery.stages.search.record import Outcome
from distillery.stages.search.trials import Job, train_trials
from distillery.stages.students.student_training import TrainingRequest, train_baselines, train_students
from distillery.store import Store

SETTING = Setting(temperature=2.0, alpha=0.7, lr=0.02)
COHORT = tuple(
    Setting(temperature=temperature, alpha=0.6, lr=lr, loss=Loss(name=loss))
    for temperature, lr, loss in [
        (1.0, 0.01, "kd"),
        (4.0, 0.002, "kd"),
        (2.0, 0.02, "mse"),
        (2.0, 0.03, "kd"),
        (1.0, 0.0005, "mse"),
        (3.0, 0.005, "kd"),
    ]
)


@pytest.fixture
def job(chain: Chain) -> Job:
    """A trial of the smaller capacity, with the recipe's own five epochs."""
    config = chain.config.model_copy(update={"search": chain.config.search.model_copy(update={"epochs": None})})
    capacity = config.student.capacities[0]
    return Job(config, chain.data, chain.ensemble, tuple(chain.taught), capacity, proposed(SETTING), "cpu")


def train(job: Job) -> Outcome:
    """The record of a job's only trial."""
    (record,) = train_trials(job)
    return record


def with_recipe(job: Job, recipe: Recipe, **changes: Any) -> Job:
    """The trial with another recipe."""
    student = job.config.student.model_copy(update={"recipe": recipe})
    return replace(job, config=job.config.model_copy(update={"student": student}), **changes)


def with_halving(job: Job, rungs: dict[int, tuple[float, ...]], **halving: int) -> Job:
    """The trial with successive halving, after trials that had these NLLs at the rungs."""
    search = job.config.search.model_copy(update={"halving": Halving(**halving)})
    return replace(job, config=job.config.model_copy(update={"search": search}), rungs=tuple(rungs.items()))


def test_a_trial_is_the_student_of_its_setting(chain: Chain, store: Store, job: Job) -> None:
    """reference: at the same length a trial has the figures of the student, or without a teacher of the baseline."""
    config, wanted = job.config, [TrainingRequest(SETTING, job.config.seed)]
    upstream = (chain.data, chain.ensemble, chain.taught, store)
    (student,) = train_students(job.capacity, wanted, config.student, *upstream)
    (baseline,) = train_baselines(job.capacity, wanted, config.student, chain.data, store)
    for handle, mine in ((student, job), (baseline, replace(job, ensemble=None, logits=()))):
        found = train(mine)
        assert found.state == "complete" and found.curve == {}
        assert {k: getattr(found, k) for k in ("nll", "accuracy")} == pytest.approx(
            {k: handle.metrics[k] for k in ("nll", "accuracy")}
        )
        share = found.accuracy
        assert found.accuracy_se == pytest.approx((share * (1 - share) / 150) ** 0.5)
        assert 0 < found.nll_se < found.nll
    assert student.metrics["nll"] != baseline.metrics["nll"]


def test_rungs_only_look(job: Job) -> None:
    """reference: without halving the curve is the NLL at the rungs, and measuring on the way changes nothing."""
    plain = train(job)
    watched = train(replace(job, rungs=((1, ()), (3, (0.0,)), (5, (0.0,)))))
    assert watched.nll == plain.nll and watched.state == "complete"
    assert list(watched.curve) == [1, 3, 5] and watched.curve[5] == pytest.approx(watched.nll)
    assert watched.curve[1] > watched.curve[3]


def test_a_trial_ends_at_the_rung_where_it_is_behind(job: Job) -> None:
    """contract: it stops where its NLL is above the limit, not where it is equal, and keeps its curve and figures;
    nobody stops before `grace` trials were there, itself included."""
    curve = train(replace(job, rungs=((1, ()), (3, ())))).curve
    even = train(with_halving(job, {1: (curve[1],), 3: (curve[3],)}, eta=2, grace=2))
    assert even.state == "complete" and even.curve == curve
    ahead = {1: (curve[1],), 3: (curve[3] - 1e-9,), 4: ()}
    behind = train(with_halving(job, ahead, eta=2, grace=2))
    assert behind.state == "stopped" and behind.curve == curve
    assert behind.nll == pytest.approx(curve[3])
    assert train(with_halving(job, ahead, eta=2, grace=3)).state == "complete"


def halved(curves: list[dict[int, float]], rungs: dict[int, tuple[float, ...]], eta: int, grace: int) -> list[int]:
    """The last rung of each trial of `COHORT` that stops, else 0: by loops, losses one after another."""
    seen, ends = {epoch: list(values) for epoch, values in rungs.items()}, [0] * len(curves)
    for loss in ("kd", "mse"):
        going = [i for i, setting in enumerate(COHORT) if setting.loss and setting.loss.name == loss]
        for epoch in rungs:
            mine = {i: curves[i][epoch] for i in going}
            seen[epoch] += mine.values()
            if len(seen[epoch]) >= grace:
                limit = np.quantile(seen[epoch], 1 / eta)
                going = [i for i in going if mine[i] <= limit]
                for i in set(mine) - set(going):
                    ends[i] = epoch
    return ends


@pytest.mark.parametrize(
    ("eta", "grace", "earlier"),
    [(2, 4, {1: (), 3: ()}), (3, 3, {1: (0.9, 1.0, 0.7), 3: (0.6,)}), (2, 99, {1: (), 3: ()})],
)
def test_a_cohort_is_compared_with_itself_and_with_earlier_trials(
    job: Job, eta: int, grace: int, earlier: dict[int, tuple[float, ...]]
) -> None:
    """reference: who ends at which rung, by quantiles of curves that nobody cut off; the others are as without it."""
    cohort = replace(job, trials=proposed(*COHORT))
    whole = train_trials(replace(cohort, rungs=tuple(earlier.items())))
    found = train_trials(with_halving(cohort, earlier, eta=eta, grace=grace))
    ends = halved([record.curve for record in whole], earlier, eta, grace)
    assert (len(set(ends)) > 1) == (grace < 99) and 0 in ends
    for record, free, end in zip(found, whole, ends, strict=True):
        assert record.state == ("stopped" if end else "complete")
        reached = [epoch for epoch in earlier if not end or epoch <= end]
        assert record.curve == pytest.approx({epoch: free.curve[epoch] for epoch in reached}, abs=1e-4)
        assert record.nll == pytest.approx(free.curve[end] if end else free.nll, abs=1e-4)


@pytest.mark.parametrize("taught", [True, False])
def test_trials_that_train_together_are_what_they_are_alone(job: Job, taught: bool) -> None:
    """reference: record by record, figures to rounding."""
    own = job if taught else replace(job, ensemble=None, logits=())
    together = train_trials(replace(own, trials=proposed(*COHORT), rungs=((2, ()),)))
    for setting, record in zip(COHORT, together, strict=True):
        alone = train(replace(own, trials=proposed(setting), rungs=((2, ()),)))
        assert alone.state == record.state == "complete"
        assert alone.curve == pytest.approx(record.curve, abs=1e-4)
        for figure in ("nll", "nll_se", "accuracy", "accuracy_se"):
            assert getattr(alone, figure) == pytest.approx(getattr(record, figure), abs=1e-4), figure


@pytest.mark.parametrize("taught", [True, False])
def test_the_length_of_a_trial(job: Job, taught: bool) -> None:
    """reference: search.epochs is the whole schedule of a trial; without it a trial is as long as the final student."""
    own = job if taught else replace(job, ensemble=None, logits=())
    short = own.config.search.model_copy(update={"epochs": 2})
    found = train(replace(own, config=own.config.model_copy(update={"search": short})))
    recipe = own.config.student.recipe.model_copy(update={"epochs": 2})
    assert found.nll == train(with_recipe(own, recipe)).nll != train(own).nll


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_trial_that_diverges_fails_with_the_reason(job: Job) -> None:
    """contract: whether in the loss, at a rung or only at the end, it is `fail`, never a comparison with nan."""
    hot = replace(job, trials=proposed(SETTING.model_copy(update={"lr": 1e30})))
    found = train(replace(hot, rungs=((4, ()),)))
    assert found.state == "fail" and "loss became" in found.reason and "lr" in found.reason
    assert "'lr': 1e+30" in found.reason and found.curve == {} and found.nll is None
    one_step = Recipe(epochs=1, batch_size=300, warmup_epochs=0)  # finite weights, logits beyond float32
    for rungs in ((), ((1, ()),)):
        end = train(with_recipe(hot, one_step, rungs=rungs))
        assert end.state == "fail" and "NLL on val_search became" in end.reason and end.curve == {}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_trial_that_diverges_fails_alone(job: Job) -> None:
    """contract: the others of its cohort are what they are without it, and are not compared with it."""
    hot = SETTING.model_copy(update={"lr": 1e30, "loss": Loss(name="kd")})
    halving = {"rungs": {1: (), 3: ()}, "eta": 2, "grace": 4}
    cohort = replace(job, trials=proposed(COHORT[0], hot, *COHORT[1:]))
    first, failed, *others = train_trials(with_halving(cohort, **halving))
    assert failed.state == "fail" and failed.curve == {} and "'lr': 1e+30" in failed.reason
    expected = train_trials(with_halving(replace(job, trials=proposed(*COHORT)), **halving))
    for record, free in zip([first, *others], expected, strict=True):
        assert record.state == free.state and record.curve == pytest.approx(free.curve, abs=1e-4)
        assert record.nll == pytest.approx(free.nll, abs=1e-4)


def test_the_memory_between_trials_is_of_one_study(chain: Chain, job: Job, store: Store) -> None:
    """property: a trial that follows one of another study is taught by that study's own logits."""
    first, config = train(job).nll, chain.config.logits.model_copy(update={"dtype": "float32"})
    exact = tuple(cache_logits(m, "transfer", chain.data, config, store) for m in chain.members)
    other = train(replace(job, logits=exact)).nll
    assert other == pytest.approx(first, abs=0.01) and other != first
    assert train(job).nll == first
