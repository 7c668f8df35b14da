"""MLflow model versions: log the student, register it once, find versions and open them."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import mlflow
import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.entities.model_registry import RegisteredModel as RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema, TensorSpec

from distillery.errors import InputError
from distillery.flows.tracking.model_files import model_options
from distillery.flows.tracking.runs import Run
from distillery.sources import Rows
from distillery.stages.data.preprocess import session
from distillery.stages.export.onnx_model import MODEL
from distillery.stages.promotion.judgement import Champion
from distillery.store import Handle

CHAMPION, PREVIOUS, CANDIDATE = "champion", "previous", "candidate"
ALIASES = (CHAMPION, PREVIOUS, CANDIDATE)
FINGERPRINT = "distillery.fingerprint"
T = TypeVar("T")
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the latter for an alias


@dataclass(frozen=True)
class Registered:
    """A model version and the model behind it."""

    version: int
    model_id: str | None


def register(
    client: MlflowClient,
    name: str,
    exported: Handle,
    rows: Rows,
    classes: list[str],
    run: Run,
    tags: dict[str, str],
) -> Registered:
    """The version that holds this exported student; made only if there is none yet, and given these tags."""
    existing = find_version(client, name, exported.fingerprint)
    if existing is not None:
        for key, value in tags.items():
            if existing.tags.get(key) != value:
                client.set_model_version_tag(name, existing.version, key, value)
        return Registered(int(existing.version), existing.model_id)
    info = _log(exported, rows, classes, run)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {FINGERPRINT: exported.fingerprint, **tags}
    version = client.create_model_version(name, info.model_uri, run.id, tags=tags, model_id=info.model_id)
    return Registered(int(version.version), info.model_id)


def find_version(client: MlflowClient, name: str, fingerprint: str) -> ModelVersion | None:
    """The version of a registered model that was made from this export, if any."""
    versions = client.search_model_versions(f"name = '{name}' and tags.`{FINGERPRINT}` = '{fingerprint}'")
    return versions[0] if versions else None


def by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version that carries an alias; None if the model or the alias does not exist."""
    return _or_none(lambda: client.get_model_version_by_alias(name, alias))


def by_version(client: MlflowClient, name: str, version: int) -> ModelVersion | None:
    """A version by its number; None if it does not exist."""
    return _or_none(lambda: client.get_model_version(name, str(version)))


def registered(client: MlflowClient, name: str) -> RegisteredModel | None:
    """A registered model with its tags and aliases; None if it does not exist."""
    return _or_none(lambda: client.get_registered_model(name))


def _or_none(look: Callable[[], T]) -> T | None:
    # A store that does not answer is another matter: who takes it for "no champion" promotes without a comparison.
    try:
        return look()
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


def names(client: MlflowClient) -> list[str]:
    """The registered models of the store."""
    return [model.name for model in client.search_registered_models(max_results=1000)]


def check_name(client: MlflowClient, name: str) -> None:
    """Looks whether a registered model's name is free for an experiment.

    Raises:
        InputError: Something else holds versions under it.
    """
    model = registered(client, name)
    if model is None:
        return
    champion = by_alias(client, name, CHAMPION)
    foreign = champion is not None and FINGERPRINT not in champion.tags
    made_here = f"name = '{name}' and tags.`{FINGERPRINT}` LIKE '%'"
    if foreign or (model.latest_versions and not client.search_model_versions(made_here, max_results=1)):
        what = f"champion, version {champion.version}," if champion is not None and foreign else "versions"
        raise InputError(
            f"name: expected one that is free in the model registry, got {name!r}, a registered model whose {what} "
            "distillery did not make"
        )


def open_model(client: MlflowClient, name: str, version: str) -> ort.InferenceSession:
    """The ONNX model of a version, as an onnxruntime session.

    Raises:
        InputError: There is no such version, or it is not an ONNX model.
    """
    model = by_version(client, name, int(version)) if version.isdigit() else by_alias(client, name, version)
    if model is None:
        raise InputError(f"expected a registered model {name!r} with the version or alias {version!r}, got none")
    with tempfile.TemporaryDirectory() as folder:
        local = mlflow.artifacts.download_artifacts(f"models:/{name}/{model.version}", dst_path=folder)
        files = sorted(Path(local).rglob("*.onnx"))
        if not files:
            raise InputError(f"expected version {model.version} of {name!r} to hold an ONNX model, got another kind")
        return session(onnx.load(files[0]))


def champion(client: MlflowClient, name: str, version: int) -> Champion:
    """The model of a champion, with what was noted about it."""
    tags = dict(client.get_model_version(name, str(version)).tags)
    return Champion(version, open_model(client, name, str(version)), tags)


def describe(client: MlflowClient, name: str, registered: Registered, run: Run, metrics: Mapping[str, object]) -> None:
    """Makes the version the candidate, and writes figures on the model behind it."""
    client.set_registered_model_alias(name, CANDIDATE, str(registered.version))
    figures = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float)}
    if registered.model_id is not None:
        mlflow.log_metrics(figures, run_id=run.id, model_id=registered.model_id)


def _log(exported: Handle, rows: Rows, classes: list[str], run: Run) -> ModelInfo:
    """The student as a model of the run, with the code that reads raw rows."""
    outputs, example = _outputs(rows, classes)
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id=run.id), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the inputs have no types, which is meant: the model reads any
        return mlflow.pyfunc.log_model(
            name="student",
            **model_options(exported.file(MODEL), Path(folder), rows.kind),
            signature=ModelSignature(outputs=outputs),
            input_example=example,
            metadata={"classes": classes},
        )


def _outputs(rows: Rows, classes: list[str]) -> tuple[Schema, pd.DataFrame | dict[str, np.ndarray]]:
    """(what the model answers with, a request)."""
    if rows.frame is None:
        assert rows.read is not None
        schema = Schema(
            [
                TensorSpec(np.dtype(str), (-1,), "label"),
                TensorSpec(np.dtype(np.float32), (-1, len(classes)), "probabilities"),
                TensorSpec(np.dtype(np.float32), (-1, len(classes)), "logits"),
            ]
        )
        return schema, {"image": rows.read(0)[None]}
    schema = Schema([ColSpec("string", "label"), *(ColSpec("float", f"probability:{c}") for c in classes)])
    return schema, rows.as_stored.head(5)
