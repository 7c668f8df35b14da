"""Students that are judged by folds: what is shipped has learned all rows, what judges it has not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folds import FOLDS, built, by_folds, noise

from distillery.config.search_space import Setting
from distillery.ops.metrics import quality
from distillery.stages.data.dataset import Dataset
from distillery.stages.distillation.calibration import temperature_of
from distillery.stages.distillation.distill import applied, student_seed
from distillery.stages.evaluation.model_logits import student_logits
from distillery.stages.students.student_files import StudentRecord, evaluate_on
from distillery.stages.students.student_training import TrainingRequest, train_baselines, train_students
from distillery.stages.teachers.label_training import fit_classifiers
from distillery.training.networks import build_network
from distillery.training.single import predict

SETTING = Setting(temperature=1.0, alpha=0.7, lr=0.02, epochs=4)


def test_the_shipped_network_learns_all_rows_and_others_judge_it(tree: dict[str, Any], tmp_path: Path) -> None:
    """reference: networks trained by hand: one on all of train, and one without each fold, calibrated together."""
    config = by_folds(tree)
    ctx, results = built(config, noise(config), tmp_path)
    dataset = Dataset(results.data)
    assert dataset.folds is not None
    capacity = config.student.capacities[0]
    (handle,) = train_baselines(capacity, [TrainingRequest(SETTING, 5)], config.student, results.data, ctx.store)

    recipe = applied(SETTING, config.student.recipe)
    seed = student_seed(5, capacity)
    train = dataset.splits["train"]
    folds = dataset.folds[train]
    answers = np.empty((len(train), 3), np.float32)
    for fold in range(FOLDS):
        network = build_network(capacity, dataset.spec, seed)
        fit_classifiers([network], dataset, [recipe], [seed], parts=[np.flatnonzero(folds != fold)])
        own = folds == fold
        answers[own] = predict(network, dataset.inputs, train[own])
    whole = build_network(capacity, dataset.spec, seed)
    fit_classifiers([whole], dataset, [recipe], [seed])

    labels = dataset.labels("train")
    temperature = temperature_of(answers, labels)
    record = StudentRecord.read(handle)
    assert record.calibration_temperature == pytest.approx(temperature, rel=1e-4)
    for split in ("val_search", "val_ensemble", "train"):
        found = student_logits(handle, dataset, split, 64)
        np.testing.assert_allclose(found, answers / temperature, atol=1e-4)
    on_test = predict(whole, dataset.inputs, dataset.splits["test"]) / temperature
    np.testing.assert_allclose(evaluate_on(handle, dataset, "test"), on_test, atol=1e-4)
    expected = quality(answers / temperature, labels)
    assert {name: handle.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-4)


def test_what_judges_a_student_has_learned_nothing_of_the_row(tree: dict[str, Any], tmp_path: Path) -> None:
    """property: on labels that are noise it is right on a third, where the shipped network has learned the rows."""
    config = by_folds(tree)
    ctx, results = built(config, noise(config), tmp_path)
    dataset = Dataset(results.data)
    setting = Setting(temperature=1.0, alpha=0.1, lr=0.05, epochs=150)
    (handle,) = train_students(
        config.student.capacities[1],
        [TrainingRequest(setting, 0)],
        config.student,
        results.data,
        results.ensemble,
        results.transfer_logits,
        ctx.store,
    )
    labels = dataset.labels("train")
    learned = quality(evaluate_on(handle, dataset, "train"), labels)["accuracy"]
    assert handle.metrics["accuracy"] < 0.45 < 0.55 < learned
