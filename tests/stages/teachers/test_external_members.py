"""Fitted classifiers that take raw rows become given logits."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder
from tiny_chain import Chain

from distillery.config.experiment import Logits, Teacher
from distillery.errors import InputError
from distillery.sources import Rows
from distillery.stages.logits.logit_cache import cache_logits
from distillery.stages.teachers import external_members
from distillery.stages.teachers.teacher_training import train_teachers
from distillery.store import Store


def member(path: Path, **more: Any) -> Teacher:
    """A teacher from a pickle that the user vouches for."""
    return Teacher(name="old", family="pickle", path=str(path), **{"trusted": True, **more})


@pytest.fixture(scope="module")
def pickled(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LogisticRegression]:
    """A classifier of the raw columns, fitted on train."""
    rows = chain.dataset.splits["train"]
    model = LogisticRegression().fit(chain.rows.frame.iloc[rows], chain.rows.labels[rows])
    path = tmp_path_factory.mktemp("pickle") / "model.pkl"
    path.write_bytes(pickle.dumps(model))
    return path, model


def test_a_pickle_is_a_member_like_any_other(
    chain: Chain, pickled: tuple[Path, LogisticRegression], store: Store
) -> None:
    """reference: its logits on a split are the logarithms of what the classifier itself says about the raw rows."""
    path, model = pickled
    teacher = member(path)
    identity, predict = external_members.open_pickle(teacher)
    classes = chain.dataset.classes
    handle = external_members.ask("old", identity, predict, chain.rows, classes, store)
    given = external_members.as_given(teacher, handle)
    (trained,) = train_teachers(["old"], given, chain.config.teachers.recipe, 0, chain.data, store)
    kept = cache_logits(trained, "test", chain.data, Logits(dtype="float32"), store)
    from distillery.stages.logits.logit_cache import read_logits

    expected = model.predict_proba(chain.rows.frame.iloc[chain.dataset.splits["test"]])
    order = [list(model.classes_).index(c) for c in classes]
    assert np.allclose(np.exp(read_logits(kept)), expected[:, order], atol=1e-6)
    assert external_members.ask("old", identity, predict, chain.rows, classes, store).cached


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no pickle", "cannot open"),
        (pickle.dumps(OneHotEncoder()), "expected a fitted classifier with predict_proba, got a OneHotEncoder"),
        (pickle.dumps(LogisticRegression()), "expected a fitted classifier"),
    ],
)
def test_a_pickle_that_is_no_classifier_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    """contract: one error that names the teacher."""
    (tmp_path / "model.pkl").write_bytes(content)
    with pytest.raises(InputError, match=f"teacher 'old': {message}"):
        external_members.open_pickle(member(tmp_path / "model.pkl"))


def test_a_pickle_must_be_vouched_for(tmp_path: Path) -> None:
    """contract: it is not opened otherwise; the error says what to set. A file that is not there is named."""
    joblib.dump(1, tmp_path / "model.pkl")
    with pytest.raises(ValueError, match=r"set trusted: true if .*model\.pkl"):
        member(tmp_path / "model.pkl", trusted=False)
    with pytest.raises(ValueError, match=r"gone\.pkl', which does not exist"):
        member(tmp_path / "gone.pkl")


FRAME = pd.DataFrame({"x": [1.0, 2.0, 3.0]})
HALVES = np.full((3, 2), 0.5)
ANSWERS: dict[str, tuple[Any, str]] = {
    "labels": (np.array(["no", "yes", "no"]), r"expected a probability for each of 2 classes, shape \(3, 2\)"),
    "three columns": (np.full((3, 3), 1 / 3), r"got float64 of shape \(3, 3\)"),
    "a class short": (pd.DataFrame(HALVES, columns=["probability:no", "probability:maybe"]), "got none for yes"),
    "logits": (3 * HALVES, "probabilities that sum to 1"),
    "not numbers": (np.full((3, 2), np.nan), "probabilities that sum to 1"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_must_be_probabilities(answer: str, store: Store) -> None:
    """contract: the error names the teacher and what it answered."""
    value, message = ANSWERS[answer]
    rows = Rows("table", np.array(["no", "yes", "no"]), "digest", frame=FRAME)
    with pytest.raises(InputError, match=f"teacher 'old': .*{message}"):
        external_members.ask("old", 1, lambda _: value, rows, ["no", "yes"], store)


def test_named_columns_are_put_in_order(store: Store) -> None:
    """reference: by name where classes are named, else as they are; an entry `probabilities` of several outputs."""
    rows = Rows("table", np.array(["no", "yes", "no"]), "digest", frame=FRAME)
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    named = pd.DataFrame({"label": "x", "probability:yes": probs[:, 1], "probability:no": probs[:, 0]})
    for number, value in enumerate((named, probs, {"label": ["x"] * 3, "probabilities": probs})):
        handle = external_members.ask("old", number, lambda _, value=value: value, rows, ["no", "yes"], store)  # type: ignore[misc]
        with np.load(handle.file("answers.npz")) as arrays:
            assert np.allclose(arrays["logits"], probs)


def test_an_array_is_refused_where_its_order_is_not_certain(store: Store) -> None:
    """contract: twelve numbers sorted as text; a frame whose columns have names is put in order, by the names."""
    classes = sorted(str(number) for number in range(12))
    rows = Rows("table", np.array(["0", "10", "2"]), "digest", frame=FRAME)
    probs = np.random.default_rng(0).dirichlet(np.ones(12), 3)
    for number, value in enumerate((probs, pd.DataFrame(probs), {"probabilities": probs})):
        with pytest.raises(InputError, match=r"teacher 'old': .*sorted as text, 0, 1, 10, 11, 2, 3, ..., not 0, 1, 2"):
            external_members.ask("old", number, lambda _, value=value: value, rows, classes, store)  # type: ignore[misc]
    for prefix in ("", "probability:"):
        named = pd.DataFrame(probs, columns=[f"{prefix}{number}" for number in range(12)])
        handle = external_members.ask("old", prefix, lambda _, named=named: named, rows, classes, store)  # type: ignore[misc]
        with np.load(handle.file("answers.npz")) as arrays:
            assert np.allclose(arrays["logits"], probs[:, [int(name) for name in classes]])
            assert arrays["classes"].tolist() == classes


def test_another_home_gives_the_same_teacher(
    chain: Chain, pickled: tuple[Path, LogisticRegression], tmp_path: Path
) -> None:
    """property: where the store lies is no part of a fingerprint; another content of the answers is."""
    prints = set()
    for home in ("one", "two"):
        store = Store(tmp_path / home)
        identity, predict = external_members.open_pickle(member(pickled[0]))
        handle = external_members.ask("old", identity, predict, chain.rows, chain.dataset.classes, store)
        given = external_members.as_given(member(pickled[0]), handle)
        (trained,) = train_teachers(["old"], given, chain.config.teachers.recipe, 0, chain.data, store)
        prints.add(trained.fingerprint)
    assert len(prints) == 1
    other = external_members.ask(
        "old", "v2", lambda raw: np.full((len(raw), 3), 1 / 3), chain.rows, ["0", "1", "2"], store
    )
    given = external_members.as_given(member(pickled[0]), other)
    (trained,) = train_teachers(["old"], given, chain.config.teachers.recipe, 0, chain.data, store)
    assert trained.fingerprint not in prints
