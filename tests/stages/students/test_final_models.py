"""What is trained at full length, and what of it is judged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tiny_chain import FinishedChain

from distillery.stages.roles import Role
from distillery.stages.students.final_models import FinalPlan, plan_final_models
from distillery.store import Handle


@pytest.fixture
def plan(finished: FinishedChain) -> FinalPlan:
    """For the tiny experiment."""
    return plan_final_models(finished.config, finished.data, finished.search, finished.alone)


def network(name: str, nll: float) -> Handle:
    """A trained network of this quality on val_search."""
    return Handle("students", name, "", name, metrics={"nll": nll, "accuracy": 0.5, "nll_se": 0.1})


def test_every_setting_is_trained_with_every_seed(finished: FinishedChain, plan: FinalPlan) -> None:
    """contract: of the chosen capacity all, settings one after another; of each other capacity one of both kinds."""
    assert plan.chosen.name == finished.chosen and plan.seeds[0] == finished.config.seed
    requests = [request for group in plan.students for request in group.requests]
    assert [(r.setting, r.seed) for r in requests] == [(s, seed) for s in plan.settings for seed in plan.seeds]
    assert [group.role for group in plan.others] == [Role.STUDENT, Role.PLAIN] * (len(plan.order) - 1)
    assert finished.chosen not in {group.capacity.name for group in plan.others}


def test_rivals_are_also_trained_as_long_as_their_trials(finished: FinishedChain, plan: FinalPlan) -> None:
    """contract: labels alone overfit sooner, so the tuned baseline may stop where its trials stopped."""
    epochs = [request.setting.epochs for group in plan.tuned for request in group.requests]
    assert finished.config.search.epochs in epochs and None in epochs


def test_the_mean_over_seeds_picks_the_setting_and_the_best_seed_comes_first(plan: FinalPlan) -> None:
    """reference: a setting with one lucky seed loses to one that is better in the mean."""
    plan = replace(plan, settings=(plan.settings[0],) * 2, seeds=(0, 1), objective="nll")
    lucky = [network("a0", 0.1), network("a1", 0.9)]
    steady = [network("b0", 0.4), network("b1", 0.3)]
    others = [network(f"other {number}", 0.5) for number in range(len(plan.others))]
    plain = [network("p0", 0.6), network("p1", 0.5)]
    finals = plan.pick([*lucky, *steady], [*steady, *lucky], plain, others)
    assert [final.capacity for final in finals] == list(plan.order)
    (chosen,) = [final for final in finals if final.capacity == plan.chosen.name]
    assert [h.name for h in chosen.students] == ["b1", "b0"]
    assert [h.name for h in chosen.tuned] == ["b1", "b0"]
    assert [h.name for h in chosen.plain] == ["p1", "p0"]


@pytest.mark.parametrize(
    ("ship", "tuned", "plain", "candidate"),
    [
        ("best", 0.5, 0.5, Role.STUDENT),
        ("best", 0.4, 0.4, Role.STUDENT),
        ("best", 0.35, 0.5, Role.STUDENT),
        ("best", 0.25, 0.5, Role.TUNED),
        ("best", 0.25, 0.2, Role.PLAIN),
        ("student", 0.25, 0.2, Role.STUDENT),
    ],
)
def test_a_baseline_is_the_candidate_where_it_is_better_by_more_than_a_standard_error(
    plan: FinalPlan, ship: Any, tuned: float, plain: float, candidate: Role
) -> None:
    """golden: a student of .4 in the mean with a standard error of .1; ship: student asks for no comparison."""
    plan = replace(plan, settings=plan.settings[:1], seeds=(0, 1), objective="nll", ship=ship)
    students = [network("s0", 0.1), network("s1", 0.7)]
    others = [network(f"other {number}", 0.5) for number in range(len(plan.others))]
    finals = plan.pick(students, [network("t", tuned)] * 2, [network("p", plain)] * 2, others)
    (chosen,) = [final for final in finals if final.capacity == plan.chosen.name]
    assert chosen.candidate is candidate


def test_the_plain_baseline_has_the_setting_of_the_best_student(plan: FinalPlan) -> None:
    """contract: the same recipe, the same seeds, labels alone."""
    other = plan.settings[0].model_copy(update={"temperature": 7.0})
    plan = replace(plan, settings=(plan.settings[0], other), seeds=(0, 1), objective="nll")
    students = [network("a0", 0.5), network("a1", 0.5), network("b0", 0.2), network("b1", 0.2)]
    requests = [request for group in plan.plain(students) for request in group.requests]
    assert {group.role for group in plan.plain(students)} == {Role.PLAIN}
    assert [(r.setting, r.seed) for r in requests] == [(other, 0), (other, 1)]
