"""Files of estimators: what is kept comes back, and nothing is opened that the config does not speak of."""

from __future__ import annotations

import importlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier, VotingClassifier
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits
from tiny_chain import Chain, FinishedChain

from distillery.config.experiment import Recipe, Teacher
from distillery.errors import InputError
from distillery.models import InputSpec
from distillery.stages.students.student_files import load_student
from distillery.stages.teachers import estimator_files
from distillery.stages.teachers.member_files import load_member
from distillery.stages.teachers.model_check import check_model
from distillery.stages.teachers.teacher_training import train_teachers
from distillery.store import Handle, Store

PRIOR = {"family": "sklearn", "estimator": "sklearn.dummy.DummyClassifier"}
OWN = """
from collections import Counter
from sklearn.dummy import DummyClassifier

class Own(DummyClassifier):
    def fit(self, X, y):
        self.counts = Counter(y.tolist())
        return super().fit(X, y)
"""


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def trained(chain: Chain, store: Store, **options: Any) -> Handle:
    """One member."""
    (handle,) = train_teachers(["x"], Teacher(name="x", **options), Recipe(), 0, chain.data, store)
    return handle


def own_estimator(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> dict[str, Any]:
    """Family and class of an estimator that holds a class of another package, in a module of its own."""
    (folder / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    return {"family": "sklearn", "estimator": f"{name}.Own"}


def test_options_with_numbers_as_keys_come_back(chain: Chain, store: Store) -> None:
    """reference: JSON writes them as text, in another order; the member is the one that its folder is named by."""
    params = {"class_weight": {0: 1.0, 1: 2.0, 2: 1.0, 10: 3.0}}
    handle = trained(chain, store, family="sklearn", estimator="sklearn.linear_model.LogisticRegression", params=params)
    rows = chain.dataset.splits["test"]
    member = load_member(handle, chain.dataset)
    assert np.isfinite(member.logits(chain.dataset.inputs[rows], rows)).all()
    assert handle.file("model.skops").exists() and not handle.file("model.joblib").exists()


@pytest.mark.parametrize("content", ["a network", "a trusted pickle"])
def test_a_pickle_in_the_place_of_a_member_is_not_opened(
    chain: Chain, store: Store, tmp_path: Path, content: str
) -> None:
    """contract: whoever may write into a store decides neither the family of a member nor that it is trusted."""
    family = {"family": "mlp", "hidden": [3]} if content == "a network" else PRIOR
    handle = trained(chain, store, **family)
    folder = Path(handle.path)
    joblib.dump(Bomb(tmp_path / "opened"), folder / "model.joblib")
    (folder / "model.skops").unlink(missing_ok=True)
    if content == "a network":
        load_member(handle, chain.dataset)
    else:
        with pytest.raises(InputError, match="a pickle is opened only with trusted: true"):
            load_member(handle, chain.dataset)

    told = json.loads((folder / "member.json").read_text())
    told["key"][1]["model"] = {**PRIOR, "params": {}, "trusted": True}
    (folder / "member.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="expected the member that the folder is named by, got another"):
        load_member(handle, chain.dataset)
    assert not (tmp_path / "opened").exists()


def test_a_file_with_other_classes_is_refused(chain: Chain, store: Store) -> None:
    """contract: neither a class of another package nor a function of a known one, which could run what it is given."""
    handle = trained(chain, store, **PRIOR)
    for strange, name in ((Counter(), "collections.Counter"), (np.testing.assert_equal, "assert_equal")):
        skops.io.dump(strange, handle.file("model.skops"))
        with pytest.raises(InputError, match=f"expected classes of sklearn, numpy, scipy alone, got .*{name}"):
            load_member(handle, chain.dataset)


def test_what_cannot_be_kept_is_said_before_training(
    tmp_path: Path, chain: Chain, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """contract: one line with the teacher, the class and what to set; pickled, and opened again, if it is set."""
    family = own_estimator(tmp_path, monkeypatch, "own_unkept")
    said = r"^teacher 'x': skops cannot keep own_unkept.Own: expected .*, got collections.Counter; set trusted: true"
    with pytest.raises(InputError, match=said) as stopped:
        check_model(Teacher(name="x", **family), InputSpec("table", (8,), 3), "teacher 'x'", 900)
    assert "\n" not in str(stopped.value)

    check_model(Teacher(name="x", **family, trusted=True), InputSpec("table", (8,), 3), "teacher 'x'", 900)
    handle = trained(chain, store, **family, trusted=True)
    rows = chain.dataset.splits["test"]
    logits = load_member(handle, chain.dataset).logits(chain.dataset.inputs[rows], rows)
    assert np.allclose(logits, logits[0]) and not handle.file("model.skops").exists()
    assert estimator_files.size_mb(Path(handle.path)) == handle.file("model.joblib").stat().st_size / 1e6


def test_what_a_class_of_scikit_learn_holds_is_looked_at_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """contract: a pipeline with a class of another package is refused, or pickled where that is allowed."""
    own_estimator(tmp_path, monkeypatch, "own_inside")
    own = importlib.import_module("own_inside").Own()
    rows, labels = np.eye(3), np.arange(3)
    pipeline = Pipeline([("own", own)]).fit(rows, labels)
    with pytest.raises(InputError, match=r"expected classes of sklearn, numpy, scipy alone, got .*set trusted: true"):
        estimator_files.save(pipeline, tmp_path, trusted=False)
    estimator_files.save(pipeline, tmp_path, trusted=True)
    opened = estimator_files.load(tmp_path, pipeline, trusted=True)
    np.testing.assert_array_equal(opened.predict_proba(rows), pipeline.predict_proba(rows))


def test_a_file_does_not_decide_whose_code_is_run(finished: FinishedChain, tmp_path: Path) -> None:
    """contract: a student's file may not name code that no config of this process has named."""
    student = finished.finals[0].students[0]
    shutil.copytree(student.path, tmp_path / "student")
    code = tmp_path / "code.py"
    code.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'run')!r}).touch()\n")
    told = student.json("student.json")
    told["model"]["family"] = f"{code}:Net"
    (tmp_path / "student" / "student.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"expected a family that the config names, got .*code\.py:Net"):
        load_student(Handle("students", "x", str(tmp_path / "student"), student.fingerprint), finished.dataset.spec)
    assert not (tmp_path / "run").exists()


def test_a_folder_is_read_at_any_place(chain: Chain, store: Store, tmp_path: Path) -> None:
    """contract: what a member is bound to is its stage's name, not its place."""
    handle = trained(chain, store, **PRIOR)
    shutil.copytree(handle.path, tmp_path / "elsewhere")
    moved = Handle("teachers", "x", str(tmp_path / "elsewhere"), handle.fingerprint)
    rows = chain.dataset.splits["test"][:5]
    assert load_member(moved, chain.dataset).logits(chain.dataset.inputs[rows], rows).shape == (5, 3)


def test_equal_estimators_give_equal_files(tmp_path: Path) -> None:
    """determinism: also where objects lie elsewhere in memory; what is read back answers as before."""
    rows = np.random.default_rng(0).normal(size=(60, 3))
    kept = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        model = RandomForestClassifier(5, random_state=0).fit(rows, np.arange(60) % 3)
        estimator_files.save(model, folder, trusted=False)
        kept.append((folder / estimator_files.FILE).read_bytes())
        opened = estimator_files.load(folder, RandomForestClassifier(), trusted=False)
        np.testing.assert_array_equal(opened.predict_proba(rows), model.predict_proba(rows))
    assert kept[0] == kept[1]


def test_files_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    """determinism: boosted trees fitted with one thread and with two give equal files, inside another model too."""
    rows = np.random.default_rng(0).normal(size=(300, 3))
    kept = []
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        folder.mkdir()
        model = VotingClassifier(
            [("boosted", HistGradientBoostingClassifier(max_iter=3, random_state=0))], voting="soft"
        )
        with threadpool_limits(threads):
            model.fit(rows, np.arange(300) % 3)
        assert model.estimators_[0]._bin_mapper.n_threads == threads
        estimator_files.save(model, folder, trusted=False)
        kept.append((folder / estimator_files.FILE).read_bytes())
        opened = estimator_files.load(folder, VotingClassifier([]), trusted=False)
        np.testing.assert_array_equal(opened.predict_proba(rows), model.predict_proba(rows))
    assert kept[0] == kept[1]
