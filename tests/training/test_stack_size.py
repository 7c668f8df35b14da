"""Which networks train in one go."""

from __future__ import annotations

import logging
from bisect import bisect_left
from dataclasses import replace

import pytest
from tiny_chain import Chain
from trials import proposed

from distillery.config.experiment import Capacity, Recipe, Teachers
from distillery.config.search_space import Setting
from distillery.models import InputSpec
from distillery.stages.search.trials import Job, train_trials
from distillery.stages.teachers.groups import in_one_go
from distillery.stages.teachers.teacher_training import train_teachers
from distillery.store import Store
from distillery.training import stack_size as cohorts
from distillery.training.networks import build_network
from distillery.training.stack_size import stack_size, within_memory

SPEC = InputSpec("table", (20,), 2)


def mlp(*hidden: int) -> Capacity:
    """A network of these widths."""
    return Capacity(name="mlp", family="mlp", hidden=list(hidden))


def test_stacks_are_as_large_as_the_cache() -> None:
    """golden: few large networks, many small ones, always at least one; estimators and images train alone."""
    assert stack_size(mlp(256, 128, 64), Recipe(batch_size=256), SPEC) == 3  # measured: 2 to 4 are best
    assert stack_size(mlp(64, 32), Recipe(batch_size=256), SPEC) > 16
    assert stack_size(mlp(4096, 4096), Recipe(), SPEC) == 1
    assert stack_size(mlp(4096, 4096), Recipe(), SPEC, "cuda") > 1000
    assert stack_size(mlp(8), Recipe(), InputSpec("image", (3, 8, 8), 2)) == 1


def test_groups_hold_every_teacher_once_in_order(chain: Chain) -> None:
    """contract: the groups, joined, are the config's teachers; none is larger than its stack."""
    members = [
        {"name": "wide", "family": "mlp", "hidden": [600, 600], "copies": 5},
        {"name": "one", "family": "mlp", "hidden": [8]},
        {"name": "trees", "family": "sklearn", "estimator": "sklearn.tree.DecisionTreeClassifier", "copies": 2},
    ]
    config = Teachers(members=members, recipe={"batch_size": 512})  # type: ignore[arg-type]
    groups = in_one_go(config, chain.data)
    assert [name for names, _ in groups for name in names] == [name for name, _, _ in config.each()]
    assert [len(names) for names, member in groups if member.name == "trees"] == [1, 1]
    assert max(len(names) for names, member in groups if member.name == "wide") == 1


def test_a_cohort_that_does_not_fit_is_split(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """reference: its trials are those of a whole cohort, and the log says in what groups they trained."""
    settings = tuple(Setting(temperature=2.0, alpha=0.6, lr=lr) for lr in (0.01, 0.02, 0.03, 0.04, 0.05))
    search = chain.config.search.model_copy(update={"halving": None})
    config = chain.config.model_copy(update={"search": search})
    capacity = config.student.capacities[0]
    job = Job(config, chain.data, chain.ensemble, tuple(chain.taught), capacity, proposed(*settings), "cpu")
    whole = train_trials(job)
    spec, recipe = chain.dataset.spec, config.student.recipe
    network = build_network(capacity, spec, 0)
    each = bisect_left(range(1 << 30), 2, key=lambda limit: cohorts._room(network, recipe, limit))  # what two need
    monkeypatch.setattr(cohorts, "_free_bytes", lambda device: 2 * each)
    with caplog.at_level(logging.WARNING):
        split = train_trials(replace(job))
    assert [r.nll for r in split] == pytest.approx([r.nll for r in whole], rel=1e-4)
    assert "5 networks do not fit at once, they train in groups of 2" in caplog.text


def test_teachers_that_do_not_fit_are_split(
    chain: Chain, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """reference: copies of a member have the figures that they have in one go."""
    (member,) = chain.config.teachers.members
    recipe, names = chain.config.teachers.recipe_of(member), [handle.name for handle in chain.members]
    monkeypatch.setattr(cohorts, "_free_bytes", lambda device: 0)
    with caplog.at_level(logging.WARNING):
        split = train_teachers(names, member, recipe, chain.config.seed, chain.data, store)
    assert "3 networks do not fit at once, they train in groups of 1" in caplog.text
    for mine, theirs in zip(split, chain.members, strict=True):
        assert mine.fingerprint == theirs.fingerprint and mine.metrics == pytest.approx(theirs.metrics, rel=1e-3)


def test_what_fits_stays_together(caplog: pytest.LogCaptureFixture) -> None:
    """contract: nothing is cut and nothing said on a machine with room."""
    groups = [[0, 2], [1]]
    assert within_memory(groups, mlp(8), SPEC, Recipe(), "cpu") == groups
    assert not caplog.text
