"""Stage `export`: the student as one ONNX file that takes raw rows.

Preprocessing, network, softmax and class names are inside.

Images: ``image`` uint8 [N, H, W, channels] -> ``label`` text [N], ``probabilities`` and ``logits`` float32 [N, C].
Tables: one input per column, or one for all where they all hold numbers -> ``label`` text [N] and one output
``probability:<class>`` float32 [N] per class.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, compose, helper, numpy_helper
from scipy.special import softmax
from torch import nn

from distillery import preprocess
from distillery.data import Feeds, Rows
from distillery.dataset import Dataset
from distillery.models import InputSpec
from distillery.profile import latency
from distillery.serving.answers import probabilities, reading_of
from distillery.serving.reading import table_feeds
from distillery.store import Handle, Store
from distillery.students import load_student
from distillery.training.alone import predict

VERSION = 2
MODEL = "student.onnx"
TOLERANCE = 1e-4


def export_student(student: Handle, data: Handle, rows: Rows, runs: int, store: Store) -> Handle:
    """``student.onnx``, checked against torch on real raw rows, with its latency as served.

    Metrics: `parity` (largest difference of a probability), `onnx_mb`, and ``served_*`` latency from raw rows.

    Raises:
        ArithmeticError: The exported model differs from the network.
    """

    def build(work: Path) -> dict[str, Any]:
        dataset = Dataset(data)
        network = load_student(student, dataset.spec)
        graph = onnx.load(data.file("preprocess.onnx"))
        model = assemble(graph, network_graph(network, dataset.spec), dataset.spec, dataset.classes)
        onnx.save(model, work / MODEL)
        return _check(work / MODEL, network, dataset, rows, runs)

    return store.stage("export", student.name, [VERSION, student.fingerprint, Dataset(data).digest()], build)


def assemble(graph: onnx.ModelProto, network: onnx.ModelProto, spec: InputSpec, classes: list[str]) -> onnx.ModelProto:
    """Preprocessing graph + network + softmax and class names, one model."""
    reading = preprocess.reading_prop(graph)
    middle = compose.add_prefix(network, "network.")
    pairs = [(graph.graph.output[0].name, middle.graph.input[0].name)]
    middle.ir_version = graph.ir_version
    if not any(o.domain == "ai.onnx.ml" for o in graph.opset_import):
        graph.opset_import.append(helper.make_opsetid("ai.onnx.ml", 4))
    merged = compose.merge_models(graph, middle, io_map=pairs)
    versions = {o.domain: o.version for o in merged.opset_import}
    del merged.opset_import[:]
    merged.opset_import.extend(helper.make_opsetid(*pair) for pair in versions.items())
    _add_outputs(merged, spec, classes)
    helper.set_model_props(merged, {"classes": json.dumps(classes), "kind": spec.kind, **reading})
    onnx.checker.check_model(merged)
    return merged


def network_graph(network: nn.Module, spec: InputSpec) -> onnx.ModelProto:
    """``inputs`` float32 [N, ...], encoded -> ``logits`` float32 [N, C]."""
    # The exporter prints its progress and warns about its own future; neither is news to a user.
    quiet = logging.getLogger("torch.onnx")
    before, quiet.level = quiet.level, logging.ERROR
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.cpu().eval(),
            (torch.zeros(2, *spec.shape),),
            dynamo=True,
            input_names=["inputs"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1 << 20)},),
            opset_version=preprocess.OPSET,
            verbose=False,
        )
    quiet.level = before
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _add_outputs(model: onnx.ModelProto, spec: InputSpec, classes: list[str]) -> None:
    graph, ml = model.graph, "ai.onnx.ml"
    logits = graph.output[0].name
    add = graph.node.append
    soft = "probabilities" if spec.kind == "image" else "distillery.probabilities"
    add(helper.make_node("Softmax", [logits], [soft], axis=-1))
    add(helper.make_node("ArgMax", [logits], ["distillery.top"], axis=-1, keepdims=0))
    numbers = list(range(len(classes)))
    names = helper.make_node(
        "LabelEncoder",
        ["distillery.top"],
        ["label"],
        domain=ml,
        keys_int64s=numbers,
        values_strings=classes,
        default_string="",
    )
    add(names)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("label", TensorProto.STRING, ["N"]))
    if spec.kind == "image":
        add(helper.make_node("Identity", [logits], ["logits"]))
        for name in ("probabilities", "logits"):
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", len(classes)]))
        return
    # mlflow turns a table's outputs into columns, so each class gets one of its own.
    for number, name in enumerate(classes):
        index = f"distillery.class_{number}"
        graph.initializer.append(numpy_helper.from_array(np.array(number, np.int64), index))
        add(helper.make_node("Gather", [soft, index], [f"probability:{name}"], axis=1))
        graph.output.append(helper.make_tensor_value_info(f"probability:{name}", TensorProto.FLOAT, ["N"]))


def predict_rows(running: ort.InferenceSession, rows: Rows, ids: np.ndarray) -> np.ndarray:
    """Probabilities [len(ids), C] of an exported model for raw rows of a source."""
    return np.concatenate([probabilities(running, feed_rows(running, rows, batch)) for batch in rows.batches(ids)])


def feed_rows(running: ort.InferenceSession, rows: Rows, batch: np.ndarray) -> Feeds:
    """Raw rows of a source as what an exported model takes, its columns in its order."""
    if rows.frame is None:
        return rows.feed(batch)
    return table_feeds(rows.frame[reading_of(running).names].iloc[batch])


def served_latency(running: ort.InferenceSession, rows: Rows, ids: np.ndarray, runs: int) -> dict[str, float]:
    """Latency and throughput of an exported model from raw rows; see `profile.latency`."""
    feeds = [feed_rows(running, rows, ids[i : i + 1]) for i in range(len(ids))]
    # Rows travel as numbers into the feeds; `latency` repeats one for the batch, so raw rows are joined beforehand.
    return latency(lambda batch: probabilities(running, _joined(feeds, batch)), np.arange(len(feeds)), runs)


def _check(path: Path, network: nn.Module, dataset: Dataset, rows: Rows, runs: int) -> dict[str, Any]:
    ids = dataset.splits["val_search"][:256]
    running = preprocess.session(str(path), threads=1)
    served = predict_rows(running, rows, ids)
    expected = softmax(predict(network, dataset.inputs[ids]).astype(np.float64), axis=-1)
    parity = float(np.abs(served - expected).max())
    if not parity <= TOLERANCE:
        raise ArithmeticError(f"export: the ONNX model differs from the network by {parity:.2g} in a probability")
    figures = {f"served_{k}": v for k, v in served_latency(running, rows, ids[:64], runs).items()}
    return {"parity": parity, "onnx_mb": path.stat().st_size / 1e6, **figures}


def _joined(feeds: list[Feeds], numbers: np.ndarray) -> Feeds:
    if len(numbers) == 1:
        return feeds[int(numbers[0])]
    first = feeds[int(numbers[0])]
    return {name: np.concatenate([value] * len(numbers)) for name, value in first.items()}
