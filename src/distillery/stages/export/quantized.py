"""Stage `served`: the exported student as it is and with int8 weights and activations.

Both files are judged on test by whole requests, from raw rows. The int8 network also has the latency by which all
models are compared; that of the float32 network is the student's own.

Quantisation is onnxruntime's, static: scales come from training rows. Preprocessing stays exact.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from distillery.ops.log_probs import FLOOR
from distillery.ops.metrics import quality
from distillery.sources import Feeds, Rows
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preprocess import session
from distillery.stages.export.onnx_model import MODEL, NETWORK, assemble, predict_rows, request_latency
from distillery.stages.export.record import ServedModel, ServedModels
from distillery.stages.measurement.profile import latency
from distillery.stages.measurement.runtimes import in_onnxruntime
from distillery.store import Handle, Store

VERSION = 3
INT8 = "student-int8.onnx"
CALIBRATION_ROWS = 256


def measure_served(exported: Handle, data: Handle, rows: Rows, runs: int, store: Store) -> Handle:
    """``student-int8.onnx`` and ``served.json``: quality on test, size and times of both files.

    Nothing is selected by these figures. Where the network has nothing that can be quantised there is no int8 file.
    """

    def build(work: Path) -> dict[str, float]:
        dataset = Dataset(data)
        models = [_measured("float32", exported.file(MODEL), dataset, rows, runs)]
        network = quantized(onnx.load(exported.file(NETWORK)), dataset)
        if network is not None:
            graph = onnx.load(data.file("preprocess.onnx"))
            onnx.save(assemble(graph, network, dataset.spec, dataset.classes), work / INT8)
            sample = np.asarray(dataset.inputs[dataset.splits["val_search"][:64]])
            times = latency(in_onnxruntime(network).answer, sample, runs)
            int8 = _measured("int8", work / INT8, dataset, rows, runs)
            models.append(int8.model_copy(update=times))
        ServedModels(models=models).write(work)

        metrics: dict[str, float] = {}
        for model in models:
            for name in ("accuracy", "nll", "size_mb", "request_ms_p50"):
                metrics[f"{model.name}_{name}"] = getattr(model, name)
        return metrics

    return store.stage("served", exported.name, [VERSION, exported.fingerprint, data.fingerprint, runs], build)


def quantized(network: onnx.ModelProto, dataset: Dataset) -> onnx.ModelProto | None:
    """The network's graph with int8 weights and activations; None where no node of it can be quantised."""
    with tempfile.TemporaryDirectory() as folder:
        whole, out = Path(folder) / "network.onnx", Path(folder) / "int8.onnx"
        onnx.save(network, whole)
        quiet = logging.getLogger()
        before, quiet.level = quiet.level, logging.ERROR
        try:
            quantize_static(
                str(whole),
                str(out),
                _Rows(dataset),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            quiet.level = before
        found = onnx.load(out)
    return found if any(node.op_type == "QuantizeLinear" for node in found.graph.node) else None


class _Rows(CalibrationDataReader):
    """Encoded training rows, on which the scales are measured."""

    def __init__(self, dataset: Dataset) -> None:
        ids = dataset.splits["train"]
        chosen = np.random.default_rng(0).choice(ids, min(CALIBRATION_ROWS, len(ids)), replace=False)
        self._inputs = iter(np.asarray(dataset.inputs[np.sort(chosen)]).astype(np.float32)[:, None])

    def get_next(self) -> Feeds | None:
        """The next row; None after the last one."""
        row = next(self._inputs, None)
        return None if row is None else {"inputs": row}


def _measured(name: Literal["float32", "int8"], file: Path, dataset: Dataset, rows: Rows, runs: int) -> ServedModel:
    running = session(str(file), threads=1)
    probs = predict_rows(running, rows, dataset.splits["test"]).astype(np.float64)
    figures = quality(np.log(np.maximum(probs, FLOOR)), dataset.labels("test"))
    requests = request_latency(running, rows, dataset.splits["val_search"][:64], runs)
    return ServedModel(
        name=name,
        accuracy=figures["accuracy"],
        nll=figures["nll"],
        ece=figures["ece"],
        size_mb=file.stat().st_size / 1e6,
        **requests,
    )
