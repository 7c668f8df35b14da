"""What a model costs, as a part of records."""

from __future__ import annotations

from distillery.store.record import Part


class Profile(Part):
    """What a network costs: parameters, multiply-accumulates of one row, 10^6 bytes, and latency on one thread.

    `latency_ms_*` is the time of one call with one encoded row; `throughput_per_s` counts rows in batches of 64.
    """

    params: int
    macs: int
    size_mb: float
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    throughput_per_s: float


class Costs(Part):
    """The same of any model, and the `runtime` that ran it. None is what is not known, as the size of given logits."""

    params: int | None = None
    macs: int | None = None
    size_mb: float | None = None
    latency_ms_p50: float | None = None
    latency_ms_p95: float | None = None
    latency_ms_p99: float | None = None
    throughput_per_s: float | None = None
    runtime: str | None = None
