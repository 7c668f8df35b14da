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

from distillery.serving.cells import is_number
from distillery.serving.reading import NUMBERS, Feeds, Reading, column_feeds
from distillery.stages.data.scaling import scaling

OPSET = 20
IR_VERSION = 10
RARE = 10  # a category seen fewer times than this in training is treated like one never seen
MAX_CATEGORIES = 100
HUGE = 1e300
READING = "distillery.reading"  # how raw cells become the graph's inputs, kept with the graph
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


def table_graph(train: pd.DataFrame, scale: str = "column", reading: Reading | None = None) -> onnx.ModelProto:
    """One input per column (float64 or text [N]) -> float32 [N, features], fitted on the training rows.

    A table of numbers alone has one input for all, ``numbers`` float64 [N, columns]; the graph names its columns.

    Numbers: missing values become the median, then zero mean and unit variance; a column that has missing values gets
    a second feature that marks them. Text: one feature per category, all zero for one that training did not show.
    With the scale ``shared``, all numbers have one mean and one variance, for columns in the same unit such as pixels.
    What is the same in every training row is zero for ever; see `scaling` for numbers far from all others.

    Args:
        train: The training rows, clean.
        scale: ``column`` or ``shared``.
        reading: How the rows became clean, for whoever asks with raw ones.
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
    kept = reading or Reading.of_frame(train)
    helper.set_model_props(model, {FEATURES: json.dumps(builder.sources), READING: kept.to_json()})
    onnx.checker.check_model(model)
    return model


def reading_prop(graph: onnx.ModelProto) -> dict[str, str]:
    """What `READING` says, as a property for a model that begins with this graph; empty for images."""
    return {p.key: p.value for p in graph.metadata_props if p.key == READING}


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
    found = scaling(values, shared)
    gone = builder.node("IsNaN", [raw], "distillery.missing")
    median = builder.constant("distillery.median", found.median)
    filled = builder.node("Where", [gone, median, raw], "distillery.filled")
    centred = builder.node("Sub", [filled, builder.constant("distillery.center", found.center)], "distillery.centred")
    scaled = builder.node("Div", [centred, builder.constant("distillery.scale", found.scale)], "distillery.scaled")
    if np.isfinite(found.knee).any():
        scaled = _compressed(builder, scaled, found.knee)
    single = builder.node("Cast", [scaled], "distillery.scaled32", to=TensorProto.FLOAT)
    low = builder.constant("distillery.low", np.array(-found.bound, np.float32))
    high = builder.constant("distillery.high", np.array(found.bound, np.float32))
    builder.features(builder.node("Clip", [single, low, high], "distillery.clipped"), names, "number")
    missing = np.isnan(values)
    marked = np.flatnonzero(missing.any(0) & ~missing.all(0))
    if len(marked):
        chosen = builder.node(
            "Gather", [gone, builder.constant("distillery.marked", marked)], "distillery.marks", axis=1
        )
        marks = builder.node("Cast", [chosen], "distillery.marks32", to=TensorProto.FLOAT)
        builder.features(marks, [names[i] for i in marked], "missing")


def _compressed(builder: _Builder, scaled: str, knee: np.ndarray) -> str:
    """``sign(z) (min(|z|, k) + k log(max(|z|, k) / k))``: z up to the knee k, and beyond it a logarithm."""
    reached = np.where(np.isfinite(knee), knee, HUGE)
    knees = builder.constant("distillery.knee", reached)
    slope = builder.constant("distillery.slope", np.where(np.isfinite(knee), knee, 0.0))
    least = builder.constant("distillery.least", np.array(-HUGE))
    most = builder.constant("distillery.most", np.array(HUGE))
    finite = builder.node("Clip", [scaled, least, most], "distillery.finite")
    size = builder.node("Abs", [finite], "distillery.size")
    near = builder.node("Min", [size, knees], "distillery.near")
    beyond = builder.node("Max", [size, knees], "distillery.beyond")
    ratio = builder.node("Div", [beyond, knees], "distillery.ratio")
    logarithm = builder.node("Log", [ratio], "distillery.logarithm")
    far = builder.node("Mul", [logarithm, slope], "distillery.far")
    total = builder.node("Add", [near, far], "distillery.total")
    sign = builder.node("Sign", [finite], "distillery.sign")
    return builder.node("Mul", [sign, total], "distillery.compressed")


def _text_nodes(builder: _Builder, index: int, name: str, values: np.ndarray) -> None:
    # As in splits.py, imported only where data is prepared.
    from sklearn.preprocessing import OneHotEncoder

    encoder = OneHotEncoder(min_frequency=RARE, max_categories=MAX_CATEGORIES, handle_unknown="ignore")
    encoder.fit(values[:, None])
    rare = set() if encoder.infrequent_categories_[0] is None else set(encoder.infrequent_categories_[0])
    known = [str(c) for c in encoder.categories_[0] if c not in rare]
    differs = len(known) > 1 or bool(known and rare)
    code = builder.node(
        "LabelEncoder",
        [name],
        f"distillery.code_{index}",
        domain="ai.onnx.ml",
        keys_strings=known or [""],
        values_int64s=list(range(len(known) or 1)),
        default_int64=len(known) or 1,
    )
    width = len(known) or 1
    # What never differs in training says nothing, and must not speak when it differs later.
    table = np.eye(width + 1, width, dtype=np.float32) * differs
    one_hot = builder.node(
        "Gather", [builder.constant(f"distillery.table_{index}", table), code], f"distillery.hot_{index}", axis=0
    )
    builder.features(one_hot, [name] * width, "category")


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
