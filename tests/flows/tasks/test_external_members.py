"""A model that MLflow keeps, as a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from scipy.special import softmax
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from tiny_chain import Chain

from distillery.config.experiment import Teacher
from distillery.errors import InputError
from distillery.flows.environment import Places
from distillery.flows.tasks.external_members import ask
from distillery.flows.tasks.stages import Context
from distillery.stages.data.preprocess import OPSET, session
from distillery.stages.export.onnx_model import assemble, predict_rows
from distillery.stages.teachers.external_members import is_outside


class Opened(mlflow.pyfunc.PythonModel):
    """A model that tells when MLflow opens it."""

    def load_context(self, context: Any) -> None:
        """Tells."""
        Path(context.artifacts["student"]).with_name("opened").touch()
        raise RuntimeError("opened")

    def predict(self, context, model_input):  # type: ignore[no-untyped-def]  # MLflow reads types as a schema
        """Nothing."""
        return model_input


@pytest.fixture(scope="module")
def registry(client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A run to log models in."""
    folder = tmp_path_factory.mktemp("artifacts")
    with mlflow.start_run(experiment_id=mlflow.create_experiment("others", folder.as_uri())):
        yield


def context(chain: Chain) -> Context:
    """Of a run that keeps its stages with the chain's."""
    return Context.untracked(chain.config, Places(chain.store.root.parent, 1, "cpu"))


def linear(features: int, classes: int, names: tuple[str, str], output: str) -> onnx.ModelProto:
    """``rows @ W`` as an ONNX graph, the softmax of it too where the output is called probabilities."""
    weights = np.random.default_rng(0).normal(size=(features, classes)).astype(np.float32)
    nodes = [helper.make_node("MatMul", [names[0], "W"], [names[1]])]
    if output != names[1]:
        nodes.append(helper.make_node("Softmax", [names[1]], [output], axis=-1))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info(names[0], onnx.TensorProto.FLOAT, ["N", features])],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(weights, "W")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def log_python_model(name: str, artifacts: dict[str, str]) -> None:
    """Registers a model whose code is run when MLflow opens it."""
    options = {"python_model": Opened(), "artifacts": artifacts, "pip_requirements": ["onnxruntime"]}
    mlflow.pyfunc.log_model(name=name, registered_model_name=name, **options)


def answers_of(member: Teacher) -> np.ndarray:
    """The probabilities that a teacher was given."""
    with np.load(member.options["path"]) as arrays:
        return np.asarray(arrays["logits"])


def test_a_model_that_can_run_code_is_opened_only_if_it_is_trusted(
    chain: Chain, registry: None, tmp_path: Path
) -> None:
    """contract: the line names the field; sklearn's flavour is not opened, nor a Python model with two ONNX files."""
    for name in ("one", "two"):
        onnx.save(linear(8, 3, ("rows", "logits"), "probabilities"), tmp_path / f"{name}.onnx")
    artifacts = {name: str(tmp_path / f"{name}.onnx") for name in ("one", "two")}
    log_python_model("two", artifacts)
    none = DummyClassifier().fit([[0]], [0])
    mlflow.sklearn.log_model(none, name="none", registered_model_name="none", pip_requirements=["scikit-learn"])
    for address, count in (("models:/none/1", 0), ("models:/two/1", 2)):
        wanted = rf"expected a model with one ONNX file at '{address}', got {count}; .*set trusted: true"
        with pytest.raises(InputError, match=f"^teacher 'prod': trusted: {wanted}"):
            ask(context(chain), Teacher(name="prod", family="mlflow", model=address), chain.rows, chain.data)


def test_an_onnx_file_is_run_without_the_code_around_it(chain: Chain, registry: None, tmp_path: Path) -> None:
    """reference: a student's file gives what onnxruntime gives; the Python around it is run only if it is trusted."""
    graph = onnx.load(chain.data.file("preprocess.onnx"))
    network = linear(chain.dataset.spec.shape[0], 3, ("inputs", "logits"), "logits")
    student = assemble(graph, network, chain.dataset.spec, chain.dataset.classes)
    onnx.save(student, tmp_path / "student.onnx")
    artifacts = {"student": str(tmp_path / "student.onnx")}
    log_python_model("ours", artifacts)
    member = Teacher(name="prod", family="mlflow", model="models:/ours/1")
    given = ask(context(chain), member, chain.rows, chain.data)
    expected = predict_rows(session(student), chain.rows, np.arange(len(chain.rows)))
    np.testing.assert_allclose(answers_of(given), expected, atol=1e-6)

    trusted = Teacher(name="prod", family="mlflow", model="models:/ours/1", trusted=True)
    with pytest.raises(InputError, match="expected a model at 'models:/ours/1', got: opened"):
        ask(context(chain), trusted, chain.rows, chain.data)


def test_any_onnx_model_of_numbers_is_asked(chain: Chain, registry: None) -> None:
    """reference: the softmax by numpy; columns of another number are told in one line."""
    for name, features in (("narrow", 8), ("wide", 9)):
        model = linear(features, 3, ("rows", "logits"), "probabilities")
        more = {"save_as_external_data": False, "pip_requirements": ["onnxruntime"]}
        mlflow.onnx.log_model(model, name=name, registered_model_name=name, **more)
    given = ask(context(chain), Teacher(name="p", family="mlflow", model="models:/narrow/1"), chain.rows, chain.data)
    weights = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    expected = softmax(chain.rows.frame.to_numpy(np.float32) @ weights, axis=1)
    np.testing.assert_allclose(answers_of(given), expected, atol=1e-5)
    with pytest.raises(InputError, match=r"^teacher 'p': models:/wide/1 does not take the rows: .*Expected: 9"):
        ask(context(chain), Teacher(name="p", family="mlflow", model="models:/wide/1"), chain.rows, chain.data)


def test_a_registered_model_is_asked_about_every_row(chain: Chain, registry: None) -> None:
    """reference: another flavour's own probabilities, in the order of the classes; labels or no model: one error."""
    frame, labels = chain.rows.frame, chain.rows.labels
    model = LogisticRegression().fit(frame, labels)
    for name, function in (("good", "predict_proba"), ("labels", "predict")):
        mlflow.sklearn.log_model(
            model,
            name=name,
            registered_model_name=name,
            pyfunc_predict_fn=function,
            pip_requirements=["scikit-learn"],
        )
    ctx = context(chain)
    member = Teacher(name="prod", family="mlflow", model="models:/good/1", trusted=True)
    assert is_outside(member)
    given = ask(ctx, member, chain.rows, chain.data)
    with np.load(given.options["path"]) as arrays:
        assert np.allclose(arrays["logits"], model.predict_proba(frame), atol=1e-6)
    assert [handle.stage for handle in ctx.handles] == ["answers"]
    for address, message in (
        ("models:/labels/1", "expected a probability for each of 3 classes"),
        ("models:/gone@champion", "expected a model at 'models:/gone@champion', got: "),
    ):
        with pytest.raises(InputError, match=f"teacher 'prod': {message}"):
            ask(ctx, Teacher(name="prod", family="mlflow", model=address, trusted=True), chain.rows, chain.data)
    with pytest.raises(ValueError, match="expected an address such as models:/name@champion, got 'good'"):
        Teacher(name="prod", family="mlflow", model="good")
