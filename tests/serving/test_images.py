"""Images in every way that a model is asked about them: file, pixels, bytes, base64 over HTTP."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from mlflow.pyfunc import scoring_server
from onnx import helper, numpy_helper
from PIL import Image

from distillery.flows.tracking.model_files import model_options
from distillery.models import InputSpec
from distillery.prediction.predict_table import predict_file
from distillery.serving.answers import probabilities
from distillery.serving.image_file import read_image
from distillery.stages.data.preprocess import image_graph, session
from distillery.stages.export.onnx_model import assemble

CLASSES = ["cat", "dog"]
NAMES = ["f_0.png", "f_1.jpg", "f_2.png"]


def network() -> onnx.ModelProto:
    """``inputs`` [N, 3, 6, 6] -> ``logits`` [N, 2]."""
    weights = np.random.default_rng(1).normal(size=(108, 2)).astype(np.float32) / 255
    shape = numpy_helper.from_array(np.array([-1, 108]), "shape")
    nodes = [
        helper.make_node("Reshape", ["inputs", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    given = helper.make_tensor_value_info("inputs", onnx.TensorProto.FLOAT, ["N", 3, 6, 6])
    found = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph(nodes, "network", [given], [found], [shape, numpy_helper.from_array(weights, "weights")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images: plain, turned by its EXIF orientation, with transparency; and the model."""
    folder = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (6, 9, 3), np.uint8)).save(folder / NAMES[0])
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(draw.integers(0, 256, (12, 7, 3), np.uint8)).save(folder / NAMES[1], exif=turned)
    Image.fromarray(draw.integers(0, 256, (8, 8, 4), np.uint8), "RGBA").save(folder / NAMES[2])
    model = assemble(image_graph(3, 6, "crop"), network(), InputSpec("image", (3, 6, 6), 2), CLASSES)
    (folder / "model").mkdir()
    onnx.save(model, folder / "model" / "student.onnx")
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    """What the evaluation sees: the pixels that training reads, through the model."""
    running = session(str(folder / "model" / "student.onnx"))
    return np.concatenate([probabilities(running, {"image": read_image(folder / name)[None]}) for name in NAMES])


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The model as MLflow keeps and loads it."""
    place = tmp_path_factory.mktemp("served")
    options = model_options(folder / "model" / "student.onnx", tmp_path_factory.mktemp("code"), "image")
    mlflow.pyfunc.save_model(place / "model", **options)
    return mlflow.pyfunc.load_model(str(place / "model"))


def test_files(folder: Path, expected: np.ndarray) -> None:
    """property: `predict` on a folder, and on one file."""
    running = session(str(folder / "model" / "student.onnx"))
    found = pd.concat(predict_file(running, folder))
    np.testing.assert_allclose(found[[f"probability:{c}" for c in CLASSES]], expected, atol=1e-6)
    single = next(iter(predict_file(running, folder / NAMES[1])))
    np.testing.assert_allclose(single["probability:cat"], expected[1:2, 0], atol=1e-6)


def encoded(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()


ASKED: dict[str, Callable[[list[Path]], Any]] = {
    "pixels by name": lambda files: [{"image": read_image(file)[None]} for file in files],
    "pixels": lambda files: [read_image(file)[None] for file in files],
    "bytes": lambda files: [pd.DataFrame({"image": [file.read_bytes() for file in files]})],
    "base64": lambda files: [pd.DataFrame({"image": [encoded(file) for file in files]})],
    "lists": lambda files: [pd.DataFrame({"image": [read_image(file).tolist() for file in files]})],
}


@pytest.mark.parametrize("way", ASKED)
def test_pyfunc(folder: Path, served: Any, expected: np.ndarray, way: str) -> None:
    """property: MLflow's pyfunc answers pixels and files as the evaluation did."""
    found = [served.predict(asked) for asked in ASKED[way]([folder / name for name in NAMES])]
    probs = np.concatenate([answer["probabilities"] for answer in found])
    np.testing.assert_allclose(probs, expected, atol=1e-6)
    labels = np.concatenate([answer["label"] for answer in found])
    assert labels.tolist() == [CLASSES[i] for i in expected.argmax(1)]


REQUESTS: dict[str, Callable[[Path], Any]] = {
    "inputs": lambda file: {"image": read_image(file)[None].tolist()},
    "instances": lambda file: [{"image": read_image(file).tolist()}],
    "dataframe_records": lambda file: [{"image": encoded(file)}],
    "dataframe_split": lambda file: {"columns": ["image"], "data": [[encoded(file)]]},
}


@pytest.mark.parametrize("form", REQUESTS)
def test_requests(folder: Path, served: Any, expected: np.ndarray, form: str) -> None:
    """property: the HTTP server answers pixels in JSON and files in base64 as the evaluation did."""
    client = TestClient(scoring_server.init(served))
    for name, probs in zip(NAMES, expected, strict=True):
        body = json.dumps({form: REQUESTS[form](folder / name)})
        answer = client.post("/invocations", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose(answer.json()["predictions"]["probabilities"][0], probs, atol=1e-6)


WRONG: dict[str, tuple[Any, str]] = {
    "no image": (pd.DataFrame({"image": [b"<html>"]}), "expected an image"),
    "no base64": (pd.DataFrame({"image": ["?"]}), "expected an image"),
    "another name": (pd.DataFrame({"photo": [b""]}), "expected images below this name, got only photo"),
    "shares": ({"image": np.full((1, 4, 4, 3), 0.5)}, "expected whole pixels 0 to 255"),
    "gray": ({"image": np.zeros((1, 4, 4, 1), np.uint8)}, r"expected pixels 0 to 255 of shape \(height, width, 3\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_image_is_refused(served: Any, case: str) -> None:
    """contract: one line, and no answer."""
    asked, message = WRONG[case]
    with pytest.raises(mlflow.exceptions.MlflowException, match=message):
        served.predict(asked)


def test_a_damaged_image_says_its_row(served: Any, folder: Path) -> None:
    """contract: the first image that cannot be read is named by its place."""
    cut = io.BytesIO((folder / NAMES[0]).read_bytes()[:60]).getvalue()
    with pytest.raises(mlflow.exceptions.MlflowException, match="in row 2"):
        served.predict(pd.DataFrame({"image": [(folder / NAMES[0]).read_bytes(), cut]}))
