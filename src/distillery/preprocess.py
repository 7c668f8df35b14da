"""Preprocessing as one ONNX graph: built once from the training rows, run by onnxruntime for training and for serving.

Because there is only one implementation, the exported student cannot see other inputs than it was trained on.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
from onnx import TensorProto, helper, numpy_helper, parser
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from distillery.data import NUMBERS, Feeds, column_feeds, is_number

OPSET = 20
IR_VERSION = 10
RARE = 10  # a category seen fewer times than this in training is treated like one never seen
MAX_CATEGORIES = 100
COLUMNS = "distillery.columns"  # names of the columns of a table of numbers alone, kept with the graph
FEATURES = "distillery.features"  # what every feature was made from, kept with the graph


def image_graph(channels: int, size: int, fit: str) -> onnx.ModelProto:
    """``image`` uint8 [N, H, W, channels] -> ``inputs`` float32 [N, channels, size, size] with whole values 0-255.

    ``crop`` cuts the largest centred square first; ``squash`` does not. Resizing is linear and antialiased.
    """
    crop = """
        shape = Shape (image)
        axes = Constant <value = int64[2] {1, 2}> ()
        sides = Gather (shape, axes)
        side = ReduceMin <keepdims = 1> (sides)
        two = Constant <value = int64[1] {2}> ()
        spare = Sub (sides, side)
        start = Div (spare, two)
        end = Add (start, side)
        square = Slice (image, start, end, axes)
    """
    text = f"""
    <ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>
    preprocess (uint8[N, H, W, {channels}] image) => (float[N, {channels}, {size}, {size}] inputs) {{
        {crop if fit == "crop" else "square = Identity (image)"}
        pixels = Cast <to = 1> (square)
        target = Constant <value = int64[2] {{{size}, {size}}}> ()
        resized = Resize <mode = "linear", antialias = 1, exclude_outside = 1, axes = [1, 2],
            coordinate_transformation_mode = "half_pixel"> (pixels, , , target)
        whole = Round (resized)
        low = Constant <value = float {{0}}> ()
        high = Constant <value = float {{255}}> ()
        clipped = Clip (whole, low, high)
        inputs = Transpose <perm = [0, 3, 1, 2]> (clipped)
    }}
    """
    return parser.parse_model(text)


def table_graph(train: pd.DataFrame, scale: str = "column") -> onnx.ModelProto:
    """One input per column (float64 or text [N]) -> float32 [N, features], fitted on the training rows.

    A table of numbers alone has one input for all, ``numbers`` float64 [N, columns]; the graph names its columns.

    Numbers: missing values become the median, then zero mean and unit variance; a column that has missing values gets
    a second feature that marks them. Text: one feature per category, all zero for one that training did not show.
    With the scale ``shared``, all numbers have one mean and one variance, for columns in the same unit such as pixels.
    """
    builder = _Builder()
    numbers = [str(c) for c in train.columns if is_number(train[c])]
    texts = [str(c) for c in train.columns if not is_number(train[c])]
    feeds = column_feeds(train)
    if numbers:
        values = np.stack([feeds[n] for n in numbers], axis=1)
        raw = builder.side_by_side(numbers) if texts else NUMBERS
        _number_nodes(builder, raw, numbers, values, scale == "shared")
    for index, name in enumerate(texts):
        _text_nodes(builder, index, name, feeds[name])
    builder.node("Concat", builder.parts, "distillery.inputs", axis=1)
    inputs = [
        helper.make_tensor_value_info(str(c), TensorProto.DOUBLE if str(c) in numbers else TensorProto.STRING, ["N"])
        for c in train.columns
    ]
    if not texts:
        inputs = [helper.make_tensor_value_info(NUMBERS, TensorProto.DOUBLE, ["N", len(numbers)])]
    output = helper.make_tensor_value_info("distillery.inputs", TensorProto.FLOAT, ["N", builder.width])
    graph = helper.make_graph(builder.nodes, "preprocess", inputs, [output], builder.constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", 4)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    columns = {} if texts else {COLUMNS: json.dumps(numbers)}
    helper.set_model_props(model, {FEATURES: json.dumps(builder.sources), **columns})
    onnx.checker.check_model(model)
    return model


def columns_prop(graph: onnx.ModelProto) -> dict[str, str]:
    """What `COLUMNS` says, as a property for a model that begins with this graph; empty where it says nothing."""
    return {p.key: p.value for p in graph.metadata_props if p.key == COLUMNS}


def feature_sources(graph: onnx.ModelProto) -> list[tuple[str, str]]:
    """(source column, kind) of every feature that a table's graph makes: `number`, `missing` or `category`."""
    found = {p.key: p.value for p in graph.metadata_props}
    return [(column, kind) for column, kind in json.loads(found[FEATURES])]


class _Builder:
    """Nodes, constants and feature blocks of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.parts: list[str] = []
        self.width = 0
        self.sources: list[tuple[str, str]] = []

    def node(self, op: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], domain=domain, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def side_by_side(self, names: list[str]) -> str:
        one = self.constant("distillery.axis1", np.array([1], np.int64))
        columns = [self.node("Unsqueeze", [name, one], f"distillery.column_{i}") for i, name in enumerate(names)]
        return self.node("Concat", columns, "distillery.numbers", axis=1)

    def features(self, name: str, columns: list[str], kind: str) -> None:
        self.parts.append(name)
        self.width += len(columns)
        self.sources += [(column, kind) for column in columns]


def _number_nodes(builder: _Builder, raw: str, names: list[str], values: np.ndarray, shared: bool) -> None:
    imputer = SimpleImputer(strategy="median", keep_empty_features=True).fit(values)
    complete = imputer.transform(values)
    scaler = StandardScaler().fit(complete.reshape(-1, 1) if shared else complete)
    mean, spread = (np.broadcast_to(v, len(names)).astype(np.float64) for v in (scaler.mean_, scaler.scale_))
    gone = builder.node("IsNaN", [raw], "distillery.missing")
    median = builder.constant("distillery.median", imputer.statistics_.astype(np.float64))
    filled = builder.node("Where", [gone, median, raw], "distillery.filled")
    centred = builder.node("Sub", [filled, builder.constant("distillery.mean", mean)], "distillery.centred")
    scaled = builder.node("Div", [centred, builder.constant("distillery.scale", spread)], "distillery.scaled")
    builder.features(builder.node("Cast", [scaled], "distillery.scaled32", to=TensorProto.FLOAT), names, "number")
    marked = np.flatnonzero(np.isnan(values).any(0))
    if len(marked):
        chosen = builder.node(
            "Gather", [gone, builder.constant("distillery.marked", marked)], "distillery.marks", axis=1
        )
        marks = builder.node("Cast", [chosen], "distillery.marks32", to=TensorProto.FLOAT)
        builder.features(marks, [names[i] for i in marked], "missing")


def _text_nodes(builder: _Builder, index: int, name: str, values: np.ndarray) -> None:
    encoder = OneHotEncoder(min_frequency=RARE, max_categories=MAX_CATEGORIES, handle_unknown="ignore")
    encoder.fit(values[:, None])
    rare = set() if encoder.infrequent_categories_[0] is None else set(encoder.infrequent_categories_[0])
    known = [str(c) for c in encoder.categories_[0] if c not in rare] or [""]
    code = builder.node(
        "LabelEncoder",
        [name],
        f"distillery.code_{index}",
        domain="ai.onnx.ml",
        keys_strings=known,
        values_int64s=list(range(len(known))),
        default_int64=len(known),
    )
    table = np.eye(len(known) + 1, len(known), dtype=np.float32)
    one_hot = builder.node(
        "Gather", [builder.constant(f"distillery.table_{index}", table), code], f"distillery.hot_{index}", axis=0
    )
    builder.features(one_hot, [name] * len(known), "category")


def session(model: onnx.ModelProto | str, threads: int | None = None) -> ort.InferenceSession:
    """An onnxruntime session on the CPU for a model or the path of one."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    source = model if isinstance(model, str) else model.SerializeToString()
    return ort.InferenceSession(source, sess_options=options, providers=["CPUExecutionProvider"])


def encode(running: ort.InferenceSession, feeds: Feeds) -> np.ndarray:
    """The network's inputs for raw rows."""
    return np.asarray(running.run(None, feeds)[0])
