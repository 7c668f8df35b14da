"""Teachers with folds: every row of train is answered by a model that has not learned it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from distillery.config.data import Data
from distillery.config.experiment import Experiment, Logits, Recipe, Teacher, Views
from distillery.errors import InputError
from distillery.sources import Rows
from distillery.stages.checks import prepare_and_check
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preparation import prepare, read_source
from distillery.stages.data.transfer_set import show
from distillery.stages.logits.logit_cache import cache_logits, read_logits
from distillery.stages.teachers.label_training import fit_classifiers
from distillery.stages.teachers.member_files import load_member
from distillery.stages.teachers.members import FoldsMember
from distillery.stages.teachers.teacher_training import train_teachers
from distillery.store import Handle, Store
from distillery.training.networks import build_network, derive_seed
from distillery.training.single import predict

FOLDS = 4
SHAPE = {"features": 5, "informative": 4, "redundant": 0, "classes": 3}
TABLE = {"source": "make_classification", "random_state": 0, "rows": 480, **SHAPE}
NEIGHBOUR = Teacher(
    name="nn", family="sklearn", estimator="sklearn.neighbors.KNeighborsClassifier", params={"n_neighbors": 1}
)
NETWORK = Teacher(name="net", family="mlp", hidden=[8], dropout=0.1)
RECIPE = Recipe(epochs=3, batch_size=32)


@pytest.fixture
def rows() -> Rows:
    """A table whose labels are noise."""
    rows = read_source(Data(**TABLE))
    rows.labels[:] = np.random.default_rng(0).permutation(rows.labels)
    return rows


@pytest.fixture
def data(rows: Rows, store: Store) -> Handle:
    """Its stage `data`, with folds."""
    return prepare(Data(**TABLE, split={"folds": FOLDS}), rows, store)


def trained(teacher: Teacher, data: Handle, store: Store, copies: int = 1) -> list[Handle]:
    """Copies of a member."""
    names = [f"{teacher.name}-{copy}" for copy in range(copies)]
    return train_teachers(names, teacher, RECIPE, 0, data, store)


def test_no_row_and_no_view_of_it_is_answered_by_a_model_that_learned_it(data: Handle, store: Store) -> None:
    """reference: the nearest neighbour of each row, and of a view of it, among the rows of the other folds.

    A model that remembers every row would be right on all; the labels are noise, so that it is right on a third.
    """
    dataset = Dataset(data)
    assert dataset.folds is not None
    (handle,) = trained(NEIGHBOUR, data, store)
    views = Views(count=2, transforms=({"name": "spunge", "columns": 0.2, "noise": 0.1},))
    logits = read_logits(cache_logits(handle, "transfer", data, Logits(), store, views=views))
    train = dataset.splits["train"]
    for view, answers in enumerate(np.split(logits, 2)):
        shown = show(dataset, views, train, np.full(len(train), view))
        for place, row in enumerate(train):
            others = train[dataset.folds[train] != dataset.folds[row]]
            distances = ((dataset.inputs[others] - shown[place]) ** 2).sum(1)
            assert answers[place].argmax() == dataset.labels_of(others[[distances.argmin()]])[0]
    right = (logits[: len(train)].argmax(-1) == dataset.labels("train")).mean()
    assert right < 0.5
    assert handle.metrics["accuracy"] == pytest.approx(right)


def test_other_rows_are_answered_by_the_mean_of_all_models(data: Handle, store: Store) -> None:
    """reference: the mean of the models' probabilities, on test."""
    dataset = Dataset(data)
    (handle,) = trained(NETWORK, data, store)
    member = load_member(handle, dataset)
    assert isinstance(member, FoldsMember) and len(member.models) == FOLDS
    test = dataset.splits["test"]
    inputs = dataset.inputs[test]
    mean = np.mean([softmax(model.logits(inputs, test), -1) for model in member.models], axis=0)
    np.testing.assert_allclose(softmax(member.logits(inputs, test), -1), mean, atol=1e-6)


def test_each_network_equals_one_that_is_trained_on_its_rows_alone(data: Handle, store: Store) -> None:
    """reference: each fold of each copy, trained by itself on the rows of the other folds, to rounding."""
    dataset = Dataset(data)
    assert dataset.folds is not None
    handles = trained(NETWORK, data, store, copies=2)
    test = dataset.splits["test"]
    folds = dataset.folds[dataset.splits["train"]]
    shortest = min(int((folds != fold).sum()) for fold in range(FOLDS))
    for copy, handle in enumerate(handles):
        member = load_member(handle, dataset)
        assert isinstance(member, FoldsMember)
        for fold, model in enumerate(member.models):
            seed = derive_seed(derive_seed(0, f"net-{copy}"), "without", fold)
            network = build_network(NETWORK, dataset.spec, seed)
            parts = [np.flatnonzero(folds != fold)]
            assert len(parts[0]) == shortest, "all folds have one size here"
            fit_classifiers([network], dataset, [RECIPE], [seed], parts=parts)
            alone = log_softmax(predict(network, dataset.inputs, test), -1)
            together = log_softmax(model.logits(dataset.inputs[test], test), -1)
            np.testing.assert_allclose(together, alone, atol=1e-4)


def test_a_class_that_a_fold_has_not_seen_is_answered_by_the_cut_off(rows: Rows, store: Store) -> None:
    """golden: of a class with one row in train, the model of that row's fold knows nothing."""
    config = Data(**TABLE, split={"folds": FOLDS, "order": "hashed"})
    train = Dataset(prepare(config, rows, store)).splits["train"]
    others = train[rows.labels[train] == "0"][1:]
    rows.labels[others] = "1"
    data = prepare(config, replace(rows, digest="with a rare class"), store)
    dataset = Dataset(data)
    (handle,) = trained(NEIGHBOUR, data, store)
    labels = dataset.labels("train")
    alone = np.flatnonzero(np.bincount(labels) == 1)
    assert len(alone) == 1
    own = dataset.splits["train"][labels == alone[0]]
    answer = load_member(handle, dataset).logits(dataset.inputs[own], own)
    assert answer.shape == (1, 3)
    assert answer[0, alone[0]] == pytest.approx(np.log(1e-7))


GIVEN = [
    ({"family": "given", "path": "given.npz"}, "out_of_fold: true"),
    ({"family": "mlflow", "model": "models:/a@champion"}, "data.split.folds: null"),
]


@pytest.mark.parametrize(("member", "remedy"), GIVEN)
def test_answers_that_may_be_in_sample_are_refused(
    member: dict[str, Any], remedy: str, tree: dict[str, Any], tmp_path: Path, store: Store, monkeypatch: Any
) -> None:
    """error: with folds, weights would rest on answers by models that learned the rows; the message names a way out."""
    monkeypatch.chdir(tmp_path)
    np.savez("given.npz", logits=np.zeros((900, 3)))
    tree["teachers"]["members"] = [{"name": "theirs", **member}]
    tree["data"]["split"] = {"folds": 3}
    config = Experiment(**tree)
    with pytest.raises(InputError, match=f"members.0 .theirs.*{remedy}"):
        prepare_and_check(config, read_source(config.data), store)
    if member["family"] == "given":
        tree["teachers"]["members"][0]["out_of_fold"] = True
        config = Experiment(**tree)
        prepare_and_check(config, read_source(config.data), store)


def test_given_answers_cannot_teach_students_that_are_judged_by_folds(
    tree: dict[str, Any], tmp_path: Path, store: Store
) -> None:
    """error: they are one answer a row, where each fold of students needs others; the message names a way out."""
    np.savez(tmp_path / "given.npz", logits=np.zeros((900, 3)))
    given = {"name": "theirs", "family": "given", "path": str(tmp_path / "given.npz"), "out_of_fold": True}
    tree["teachers"]["members"] = [given]
    tree["data"]["split"] = {"folds": 3, "search_folds_up_to": 1000}
    config = Experiment(**tree)
    with pytest.raises(InputError, match=r"members.0 \(theirs\).*search_folds_up_to: 0"):
        prepare_and_check(config, read_source(config.data), store)


def test_students_that_cannot_train_together_are_not_judged_by_folds(
    tree: dict[str, Any], tmp_path: Path, store: Store
) -> None:
    """error: a network of the user's own; the message names it and a way out."""
    code = tmp_path / "own.py"
    code.write_text("import torch\n\n\ndef own(spec):\n    return torch.nn.Linear(spec.shape[0], spec.classes)\n")
    tree["student"]["capacities"] = [{"name": "theirs", "family": f"{code}:own"}]
    tree["data"]["split"] = {"folds": 3, "search_folds_up_to": 1000}
    config = Experiment(**tree)
    with pytest.raises(InputError, match=r"capacities.0 \(theirs\).*such as mlp.*search_folds_up_to: 0"):
        prepare_and_check(config, read_source(config.data), store)
