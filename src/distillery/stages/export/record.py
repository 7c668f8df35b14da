"""What the exported student and its int8 twin have and take."""

from __future__ import annotations

from typing import ClassVar, Literal

from distillery.store.record import Part, Record


class RequestTimes(Part):
    """What a whole request takes, preprocessing and class names included, on one thread."""

    request_ms_p50: float
    request_ms_p95: float
    request_ms_p99: float
    requests_per_s: float


class ExportFigures(RequestTimes):
    """The exported student.

    Attributes:
        parity: The largest difference of a probability from torch's.
        onnx_mb: 10^6 bytes of the file.
    """

    parity: float
    onnx_mb: float


class ServedModel(RequestTimes):
    """One file on test, asked for from raw rows. The latency is that of the int8 network; see `Profile`."""

    name: Literal["float32", "int8"]
    accuracy: float
    nll: float
    ece: float
    size_mb: float
    latency_ms_p50: float | None = None
    latency_ms_p95: float | None = None
    latency_ms_p99: float | None = None
    throughput_per_s: float | None = None


class ServedModels(Record):
    """``served.json``: the exported student as it is, and with int8 weights where it can be quantised."""

    FILE: ClassVar[str] = "served.json"

    schema_version: Literal[1] = 1
    models: list[ServedModel]
