"""Stage `export`: the student as one ONNX file that takes raw rows.

Preprocessing, network, softmax and class names are inside.

Images: ``image`` uint8 [N, H, W, channels] -> ``label`` text [N], ``probabilities`` and ``logits`` float32 [N, C].
Tables: one input per column, or one for all where they all hold numbers -> ``label`` text [N] and one output
``probability:<class>`` float32 [N] per class.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, compose, helper, numpy_helper
from scipy.special import softmax
from torch import nn

from distillery.models import InputSpec
from distillery.ops.sampling import PART_BYTES, covering_sample
from distillery.serving.answers import probabilities, reading_of
from distillery.serving.reading import table_feeds
from distillery.sources import Feeds, Rows
from distillery.stages.data import preprocess
from distillery.stages.data.dataset import Dataset
from distillery.stages.measurement.profile import latency
from distillery.stages.measurement.runtimes import network_graph
from distillery.stages.students.student_files import load_student
from distillery.store import Handle, Store
from distillery.training.single import predict

VERSION = 4
MODEL = "student.onnx"
NETWORK = "network.onnx"
TOLERANCE = 1e-4
PARITY_ROWS = 256
BATCH = 64  # raw rows that are asked for together


def export_student(student: Handle, data: Handle, rows: Rows, runs: int, store: Store) -> Handle:
    """``student.onnx``, checked against torch on real raw rows; ``network.onnx``, what of it follows preprocessing.

    Metrics: `parity` (largest difference of a probability), `onnx_mb`, and what a whole request takes, from a raw row
    to class names: `request_ms_p50`, `request_ms_p95`, `request_ms_p99` and `requests_per_s`.

    Raises:
        ArithmeticError: The exported model differs from the network.
    """

    def build(work: Path) -> dict[str, float]:
        dataset = Dataset(data)
        network = load_student(student, dataset.spec)
        onnx.save(network_graph(network, dataset.spec), work / NETWORK)
        graphs = (onnx.load(data.file("preprocess.onnx")), onnx.load(work / NETWORK))
        onnx.save(assemble(*graphs, dataset.spec, dataset.classes), work / MODEL)
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


def request_latency(running: ort.InferenceSession, rows: Rows, ids: np.ndarray, runs: int) -> dict[str, float]:
    """What a whole request takes, preprocessing and class names included: ``request_ms_*`` and ``requests_per_s``.

    It is not the latency by which models are compared, which begins with the encoded row; see `profile.latency`.
    """
    feeds = next(_together(running, rows, ids))
    most = max(1, PART_BYTES // _size(feeds[0]))
    # Rows travel as numbers into the feeds; `latency` repeats one for the batch, so raw rows are joined beforehand.
    measured = latency(
        lambda batch: probabilities(running, _joined(feeds, batch)), np.arange(len(feeds)), runs, min(BATCH, most)
    )
    times = {f"request_ms_{end}": measured[f"latency_ms_{end}"] for end in ("p50", "p95", "p99")}
    return {**times, "requests_per_s": measured["throughput_per_s"]}


def _check(path: Path, network: nn.Module, dataset: Dataset, rows: Rows, runs: int) -> dict[str, float]:
    """Parity on rows of val_search of every class, drawn at random and asked for one by one and together."""
    ids = dataset.splits["val_search"]
    ids = ids[covering_sample(dataset.labels("val_search"), PARITY_ROWS)]
    running = preprocess.session(str(path), threads=1)
    expected = softmax(predict(network, dataset.inputs[ids]).astype(np.float64), axis=-1)
    parity, first = 0.0, 0
    for feeds in _together(running, rows, ids):
        together = probabilities(running, _side_by_side(feeds))
        alone = np.concatenate([probabilities(running, feed) for feed in feeds])
        wanted = expected[first : first + len(feeds)]
        parity = max(parity, *(float(np.abs(found - wanted).max()) for found in (together, alone)))
        first += len(feeds)
    if not parity <= TOLERANCE:
        raise ArithmeticError(f"export: the ONNX model differs from the network by {parity:.2g} in a probability")
    requests = request_latency(running, rows, ids[:BATCH], runs)
    return {"parity": parity, "onnx_mb": path.stat().st_size / 1e6, **requests}


def _together(running: ort.InferenceSession, rows: Rows, ids: np.ndarray) -> Iterator[list[Feeds]]:
    """Raw rows one by one, in lists of neighbours that can be asked for in one batch: of one shape, and not too many.

    Images come in their own sizes, so a list may hold one of them only.
    """
    held: list[Feeds] = []
    for index in range(len(ids)):
        feed = feed_rows(running, rows, ids[index : index + 1])
        full = len(held) == BATCH or (len(held) + 1) * _size(feed) > PART_BYTES
        if held and (full or _shapes(feed) != _shapes(held[0])):
            yield held
            held = []
        held.append(feed)
    yield held


def _shapes(feed: Feeds) -> list[tuple[int, ...]]:
    return [values.shape for values in feed.values()]


def _size(feed: Feeds) -> int:
    """Bytes of a raw row."""
    return sum(values.nbytes for values in feed.values())


def _side_by_side(feeds: list[Feeds]) -> Feeds:
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _joined(feeds: list[Feeds], numbers: np.ndarray) -> Feeds:
    if len(numbers) == 1:
        return feeds[int(numbers[0])]
    return _side_by_side([feeds[int(numbers[0])]] * len(numbers))
