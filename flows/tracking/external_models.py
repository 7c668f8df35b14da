"""Models that MLflow keeps, opened as teachers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TypeAlias

import mlflow
import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd

from distillery.config.experiment import Teacher
from distillery.errors import InputError
from distillery.serving.answers import PROBABILITY, Answers
from distillery.serving.reading import Feeds
from distillery.stages.data.preprocess import session
from distillery.stages.teachers.external_members import Predict
from distillery.store import checksum

Raw: TypeAlias = pd.DataFrame | dict[str, np.ndarray]
"""Raw rows of a table, or ``{"image": uint8 [n, H, W, channels]}``."""

DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(string)": np.object_,
}


def open_model(member: Teacher) -> tuple[str, Predict]:
    """(what identifies it, the classifier) of a model that MLflow keeps."""
    address = member.options["model"]
    try:
        if not member.options["trusted"]:
            identity, ask_model = _opened_as_onnx(member.name, address)
        else:
            identity = mlflow.models.get_model_info(address).model_uuid
            ask_model = mlflow.pyfunc.load_model(address).predict
    except InputError:
        raise
    except Exception as error:  # MLflow's, onnxruntime's, or of whatever a trusted model consists of
        raise InputError(f"teacher {member.name!r}: expected a model at {address!r}, got: {_reason(error)}") from error

    def predict(raw: Raw) -> object:
        try:
            return ask_model(raw)
        except Exception as error:
            problem = f"teacher {member.name!r}: {address} does not take the rows: {_reason(error)}"
            raise InputError(problem) from error

    return identity, predict


def _opened_as_onnx(name: str, address: str) -> tuple[str, Predict]:
    """(checksum, the classifier) of the ONNX file that a model holds; nothing else of the model is opened.

    Raises:
        InputError: It holds none, or several.
    """
    with tempfile.TemporaryDirectory() as folder:
        local = mlflow.artifacts.download_artifacts(address, dst_path=folder)
        files = sorted(Path(local).rglob("*.onnx"))
        if len(files) != 1:
            raise InputError(
                f"teacher {name!r}: trusted: expected a model with one ONNX file at {address!r}, got {len(files)}; "
                "any other model can run code when it is opened: set trusted: true if it is yours"
            )
        running = session(onnx.load(files[0]))
        identity = checksum(files[0])

    def predict(raw: Raw) -> object:
        return _by_distillery(running, raw) if _is_ours(running) else _by_names(running, raw)

    return identity, predict


def _is_ours(running: ort.InferenceSession) -> bool:
    return {"classes", "kind"} <= running.get_modelmeta().custom_metadata_map.keys()


def _by_distillery(running: ort.InferenceSession, raw: Raw) -> pd.DataFrame:
    """The answers of a student, a column for the probability of each of its classes."""
    answers = Answers(running)
    predicted = answers.of_request(raw)
    if answers.is_table:
        return predicted
    return pd.DataFrame(predicted["probabilities"], columns=[f"{PROBABILITY}{name}" for name in answers.classes])


def _by_names(running: ort.InferenceSession, raw: Raw) -> object:
    """The output ``probabilities`` of any ONNX model, or the only one.

    An input takes the column of its name; a single one with another name takes all columns, side by side.
    """
    outputs = [output.name for output in running.get_outputs()]
    wanted = outputs if len(outputs) == 1 else ["probabilities"]
    if wanted[0] not in outputs:
        raise InputError(f"expected an output 'probabilities', got {', '.join(outputs)}")
    return running.run(wanted, _feeds(running, raw))[0]


def _feeds(running: ort.InferenceSession, raw: Raw) -> Feeds:
    inputs = running.get_inputs()
    if len(inputs) == 1 and inputs[0].name not in raw and isinstance(raw, pd.DataFrame):
        (only,) = inputs
        return {only.name: raw.to_numpy(DTYPES[only.type])}

    feeds: Feeds = {}
    for wanted in inputs:
        if wanted.name not in raw:
            raise InputError(f"expected a column {wanted.name!r}, got none")
        values = np.asarray(raw[wanted.name])
        if isinstance(raw, pd.DataFrame):
            values = values.astype(DTYPES[wanted.type])
            values = values.reshape(len(raw), *[1] * (len(wanted.shape) - 1))
        feeds[wanted.name] = values
    return feeds


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
