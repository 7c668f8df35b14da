"""Trials of students that are judged by folds: no answer comes from a model that has learned the row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folds import FOLDS, built, by_folds, noise
from scipy.special import log_softmax

from distillery.config.search_space import Setting
from distillery.ops.metrics import quality
from distillery.stages.data.dataset import Dataset
from distillery.stages.distillation.calibration import temperature_of
from distillery.stages.distillation.distill import Targets, distil, student_seed
from distillery.stages.ensemble.weight_selection import chosen
from distillery.stages.search.record import TrialState
from distillery.stages.search.trials import Job, Proposed, train_trials
from distillery.stages.teachers.member_files import load_member
from distillery.stages.teachers.members import EstimatorMember, FoldsMember
from distillery.training.networks import build_network
from distillery.training.single import predict


def test_teachers_of_a_fold_have_learned_neither_its_rows_nor_those_that_they_label(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    """reference: each nearest-neighbour model keeps the rows of the folds that it may know, and no others."""
    config = by_folds(tree)
    _, results = built(config, noise(config), tmp_path)
    dataset = Dataset(results.data)
    assert dataset.folds is not None
    train = dataset.splits["train"]
    folds = dataset.folds[train]
    member = load_member(results.members[0], dataset)
    assert isinstance(member, FoldsMember)
    for judged in range(FOLDS):
        for labelled, model in enumerate(member.without(judged).models):
            assert isinstance(model, EstimatorMember)
            known = dataset.inputs[train[~np.isin(folds, [judged, labelled])]]
            np.testing.assert_array_equal(model.estimator._fit_X, known)


def test_nothing_can_be_learned_from_noise(tree: dict[str, Any], tmp_path: Path) -> None:
    """property: with shuffled labels no trial is better than knowing the classes' shares, whatever it is taught.

    Teachers that knew the judged fold would tell students its labels: the first teacher remembers every row.
    """
    tree["search"]["epochs"] = 60
    config = by_folds(tree)
    _, results = built(config, noise(config), tmp_path)
    labels = Dataset(results.data).labels("train")
    shares = np.bincount(labels) / len(labels)
    prior = -np.log(shares[labels])
    settings = [Setting(temperature=1.0, alpha=alpha, lr=0.02) for alpha in (0.3, 1.0)]
    trials = tuple(Proposed(number, "large", setting) for number, setting in enumerate(settings))
    for ensemble in (results.ensemble, None):
        job = Job(
            config,
            results.data,
            ensemble,
            tuple(results.transfer_logits),
            config.student.capacities[1],
            trials,
            "cpu",
        )
        for outcome in train_trials(job):
            assert outcome.state is TrialState.COMPLETE and outcome.nll is not None
            assert outcome.nll > prior.mean() - 2 * prior.std() / np.sqrt(len(labels))
            assert outcome.accuracy is not None and outcome.accuracy < 0.45


def test_a_trial_is_one_network_for_each_fold(tree: dict[str, Any], tmp_path: Path) -> None:
    """reference: each fold's network trained by itself; the trial's NLL is that of their calibrated answers."""
    config = by_folds(tree)
    _, results = built(config, noise(config), tmp_path)
    dataset = Dataset(results.data)
    assert dataset.folds is not None
    capacity, student = config.student.capacities[0], config.student
    recipe = student.recipe.model_copy(update={"epochs": config.search.epochs})
    setting = Setting(temperature=2.0, alpha=0.6, lr=0.01)
    logits = tuple(results.transfer_logits)
    job = Job(config, results.data, results.ensemble, logits, capacity, (Proposed(0, "x", setting),), "cpu")
    (outcome,) = train_trials(job)

    targets = Targets.load(results.data, config.student.views, results.ensemble, results.transfer_logits)
    train = dataset.splits["train"]
    folds = dataset.folds[train]
    seed = student_seed(config.seed, capacity)
    answers = np.empty((len(train), 3), np.float32)
    for fold in range(FOLDS):
        network = build_network(capacity, dataset.spec, seed)
        distil([network], dataset, targets, [setting], [seed], student, recipe, folds=[fold])
        own = folds == fold
        answers[own] = predict(network, dataset.inputs, train[own])
    labels = dataset.labels("train")
    expected = quality(answers / temperature_of(answers, labels), labels)
    assert outcome.nll == pytest.approx(expected["nll"], abs=1e-4)
    assert outcome.accuracy == expected["accuracy"]


def test_targets_of_a_fold_are_the_answers_without_it(tree: dict[str, Any], tmp_path: Path) -> None:
    """reference: the pooled answers of each member's models that know neither the fold nor the row."""
    config = by_folds(tree)
    _, results = built(config, noise(config), tmp_path)
    dataset = Dataset(results.data)
    targets = Targets.load(results.data, config.student.views, results.ensemble, results.transfer_logits)
    train = dataset.splits["train"]
    blocks = targets.logits.numpy().reshape(1 + FOLDS, len(train), 3)
    pooling = chosen(results.ensemble)
    members = [load_member(handle, dataset) for handle in results.members]
    for block, without in enumerate([None, *range(FOLDS)]):
        logits = []
        for member in members:
            assert isinstance(member, FoldsMember)
            asked = member if without is None else member.without(without)
            logits.append(asked.logits(dataset.inputs[train], train))
        expected = log_softmax(pooling.apply(np.stack(logits)), -1)
        np.testing.assert_allclose(log_softmax(blocks[block], -1), expected, atol=2e-2)  # kept in float16
