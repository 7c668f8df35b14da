"""MLflow model versions: log the student, register it once, compare it with the champion, move aliases."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema, TensorSpec

from distillery.data import Rows, is_number
from distillery.errors import InputError
from distillery.export import MODEL, classes_of, predict_rows
from distillery.gates import Verdict
from distillery.preprocess import session
from distillery.promotion import Decision
from distillery.store import Handle
from flows.tracking import Run

CHAMPION, PREVIOUS, CANDIDATE = "champion", "previous", "candidate"
FINGERPRINT = "distillery.fingerprint"


@dataclass(frozen=True)
class Registered:
    """A model version and the model behind it."""

    version: int
    model_id: str | None


def register(client: MlflowClient, name: str, exported: Handle, rows: Rows, classes: list[str], run: Run) -> Registered:
    """The version that holds this exported student; logged and registered only if that was not done before."""
    known = find_version(client, name, exported.fingerprint)
    if known is not None:
        return Registered(int(known.version), known.model_id)
    signature, example = _signature(rows, classes)
    with mlflow.start_run(run_id=run.id):
        info = mlflow.onnx.log_model(
            onnx.load(exported.file(MODEL)),
            name="student",
            signature=signature,
            input_example=example,
            save_as_external_data=False,
            onnx_execution_providers=["CPUExecutionProvider"],
            pip_requirements=[
                f"onnxruntime=={ort.__version__}",
                f"numpy=={np.__version__}",
                f"pandas=={pd.__version__}",
            ],
            metadata={"classes": classes},
        )
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        name, info.model_uri, run.id, tags={FINGERPRINT: exported.fingerprint}, model_id=info.model_id
    )
    return Registered(int(version.version), info.model_id)


def find_version(client: MlflowClient, name: str, fingerprint: str) -> ModelVersion | None:
    """The version of a registered model that was made from this export, if any."""
    try:
        versions = client.search_model_versions(f"name = '{name}'", max_results=1000)
    except MlflowException:
        return None
    return next((v for v in versions if v.tags.get(FINGERPRINT) == fingerprint), None)


def by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version that carries an alias; None if the model or the alias does not exist."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException:
        return None


def by_version(client: MlflowClient, name: str, version: int) -> ModelVersion | None:
    """A version by its number; None if it does not exist."""
    try:
        return client.get_model_version(name, str(version))
    except MlflowException:
        return None


def open_model(client: MlflowClient, name: str, version: str) -> ort.InferenceSession:
    """The ONNX model of a version, as an onnxruntime session.

    Raises:
        InputError: There is no such version, or it is not an ONNX model.
    """
    found = by_version(client, name, int(version)) if version.isdigit() else by_alias(client, name, version)
    if found is None:
        raise InputError(f"expected a registered model {name!r} with the version or alias {version!r}, got none")
    with tempfile.TemporaryDirectory() as folder:
        local = mlflow.artifacts.download_artifacts(f"models:/{name}/{found.version}", dst_path=folder)
        files = sorted(Path(local).rglob("*.onnx"))
        if not files:
            raise InputError(f"expected version {found.version} of {name!r} to hold an ONNX model, got another kind")
        return session(onnx.load(files[0]))


def reasons_of(version: ModelVersion) -> list[str]:
    """Why a version was promoted or not, as stored on it."""
    return list(json.loads(version.tags.get("reasons", "[]")))


def gates_of(version: ModelVersion) -> list[Verdict]:
    """What each gate found, as stored on a version."""
    return [Verdict(**verdict) for verdict in json.loads(version.tags.get("gates", "[]"))]


def verdict_of(client: MlflowClient, name: str, version: int, rules: str) -> Decision | None:
    """The decision that was made about a version, None if none was made yet, or by other `rules`."""
    found = client.get_model_version(name, str(version))
    if "promoted" not in found.tags or found.tags.get("rules") != rules:
        return None
    return Decision(found.tags["promoted"] == "true", reasons_of(found), gates_of(found))


def champion_probabilities(
    client: MlflowClient, name: str, champion: ModelVersion, rows: Rows, ids: np.ndarray, classes: list[str]
) -> tuple[np.ndarray | None, str]:
    """(probabilities [len(ids), C] of the champion for raw rows, "") or (None, why it cannot take them)."""
    running = open_model(client, name, str(champion.version))
    if classes_of(running) != classes:
        return None, f"its classes are {', '.join(classes_of(running))}"
    wanted, offered = {i.name for i in running.get_inputs()}, set(rows.feed(ids[:1]))
    if not wanted <= offered:
        return None, f"it needs inputs that the data lacks: {', '.join(sorted(wanted - offered))}"
    return predict_rows(running, rows, ids), ""


def promote(client: MlflowClient, name: str, version: int, decision: Decision, rules: str) -> None:
    """Makes a version the champion; the one before keeps the alias `previous`.

    The alias moves after the reasons are written; the rules come last, so that a decision half stored is made again.
    """
    reigning = by_alias(client, name, CHAMPION)
    if reigning is not None and int(reigning.version) == version:
        return
    _explain(client, name, version, "Promoted to champion", decision)
    if reigning is not None:
        client.set_model_version_tag(name, str(version), "promoted_over", str(reigning.version))
        client.set_registered_model_alias(name, PREVIOUS, str(reigning.version))
    client.set_registered_model_alias(name, CHAMPION, str(version))
    _settle(client, name, version, "true", rules)


def reject(client: MlflowClient, name: str, version: int, decision: Decision, rules: str) -> None:
    """Stores on a version why it was not promoted."""
    _explain(client, name, version, "Not promoted", decision)
    _settle(client, name, version, "false", rules)


def _settle(client: MlflowClient, name: str, version: int, promoted: str, rules: str) -> None:
    for key, value in (("promoted", promoted), ("rules", rules)):
        client.set_model_version_tag(name, str(version), key, value)


def _explain(client: MlflowClient, name: str, version: int, verdict: str, decision: Decision) -> None:
    gates = [asdict(gate) for gate in decision.gates]
    for key, value in (("reasons", json.dumps(decision.reasons)), ("gates", json.dumps(gates))):
        client.set_model_version_tag(name, str(version), key, value)
    text = "\n".join([f"{verdict}:", "", *(f"- {r}" for r in decision.reasons)])
    client.update_model_version(name, str(version), text)


def rollback(client: MlflowClient, name: str) -> tuple[int, int]:
    """(version that was the champion, version that is it again).

    Raises:
        InputError: There is no champion or none before it.
    """
    reigning, previous = by_alias(client, name, CHAMPION), by_alias(client, name, PREVIOUS)
    if reigning is None:
        raise InputError(f"rollback: expected a registered model {name!r} with a champion, got none")
    if previous is None:
        raise InputError(f"rollback: expected a champion of {name!r} before version {reigning.version}, got none")
    client.set_registered_model_alias(name, PREVIOUS, str(reigning.version))
    client.set_registered_model_alias(name, CHAMPION, str(previous.version))
    # What was withdrawn by hand stays withdrawn: the next run of the same config finds this verdict, not the old one.
    reasons = [*reasons_of(reigning), f"rolled back to version {previous.version}"]
    reject(
        client,
        name,
        int(reigning.version),
        Decision(False, reasons, gates_of(reigning)),
        reigning.tags.get("rules", ""),
    )
    return int(reigning.version), int(previous.version)


def describe(
    client: MlflowClient, name: str, registered: Registered, run: Run, tags: dict[str, Any], metrics: dict[str, Any]
) -> None:
    """Writes tags on the version and figures on the model behind it."""
    for key, value in tags.items():
        client.set_model_version_tag(name, str(registered.version), key, str(value))
    client.set_registered_model_alias(name, CANDIDATE, str(registered.version))
    figures = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float)}
    if registered.model_id is not None:
        mlflow.log_metrics(figures, run_id=run.id, model_id=registered.model_id)


def _signature(rows: Rows, classes: list[str]) -> tuple[ModelSignature, Any]:
    if rows.frame is None:
        assert rows.read is not None
        inputs = Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, rows.channels), "image")])
        outputs = Schema(
            [
                TensorSpec(np.dtype(str), (-1,), "label"),
                TensorSpec(np.dtype(np.float32), (-1, len(classes)), "probabilities"),
                TensorSpec(np.dtype(np.float32), (-1, len(classes)), "logits"),
            ]
        )
        return ModelSignature(inputs, outputs), {"image": rows.read(0)[None]}
    columns: list[Any] = [
        ColSpec("double" if is_number(rows.frame[c]) else "string", str(c)) for c in rows.frame.columns
    ]
    outputs = Schema([ColSpec("string", "label"), *(ColSpec("float", f"probability:{c}") for c in classes)])
    example = rows.frame.head(5).copy()
    for column in example.columns:
        number = is_number(example[column])
        example[column] = example[column].astype(float) if number else example[column].fillna("").astype(str)
    return ModelSignature(Schema(columns), outputs), example
