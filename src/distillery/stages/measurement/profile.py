"""What a model costs: parameters, multiply-accumulates, bytes, latency.

Latency is the time of one call with one encoded row, on one thread, in the model's runtime; see `runtimes`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distillery.models import InputSpec

WARM_UP = 20
WARM_UP_SECONDS = 0.5
"""Where so many calls that warm up take longer than that, fewer do."""

LEAST_RUNS = 10
ENOUGH_SECONDS = 1.0
"""A model whose calls take this long together is timed by fewer of them, but at least `LEAST_RUNS`."""


def count_params(network: nn.Module) -> int:
    """Number of trainable and fixed parameters (buffers do not count)."""
    return sum(p.numel() for p in network.parameters())


def count_macs(network: nn.Module, spec: InputSpec) -> int:
    """Multiply-accumulates of one row's forward pass, by torch's own operator count."""
    counter = FlopCounterMode(display=False)
    network.eval()
    with torch.inference_mode(False), torch.no_grad(), counter:
        network.cpu()(torch.zeros(1, *spec.shape))
    return int(counter.get_total_flops() // 2)


def weights_mb(network: nn.Module) -> float:
    """Size of weights and buffers as stored, in 10^6 bytes."""
    return sum(t.numel() * t.element_size() for t in network.state_dict().values()) / 1e6


def latency(run: Callable[[np.ndarray], object], rows: np.ndarray, runs: int, batch_size: int = 64) -> dict[str, float]:
    """Milliseconds per call at batch 1 (p50, p95, p99) and rows per second at `batch_size`, on one thread.

    Args:
        run: The model: encoded rows [B, ...] -> anything.
        rows: Real encoded rows [N, ...], used in turn.
        runs: Timed calls at batch 1; of a slow model as many as `ENOUGH_SECONDS` hold, and at least `LEAST_RUNS`.
        batch_size: Of the throughput.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.disable()  # without a collection before: in a large process that takes longer than the measurement
    try:
        with threadpool_limits(1):  # of numpy and scikit-learn; torch keeps its own count
            each = [rows[i % len(rows)][None] for i in range(WARM_UP + runs)]
            _times(run, each[:WARM_UP], 1, WARM_UP_SECONDS)
            single = _times(run, each[WARM_UP:], LEAST_RUNS, ENOUGH_SECONDS)
            many = np.resize(rows, (batch_size, *rows.shape[1:]))
            bulk = _times(run, [many] * max(5, runs // 20), 5, ENOUGH_SECONDS)[2:]
    finally:
        gc.enable()
        torch.set_num_threads(threads)
    p50, p95, p99 = np.percentile(single, [50, 95, 99]) * 1e3
    return {
        "latency_ms_p50": float(p50),
        "latency_ms_p95": float(p95),
        "latency_ms_p99": float(p99),
        "throughput_per_s": float(batch_size / np.median(bulk)),
    }


def _times(
    run: Callable[[np.ndarray], object], batches: list[np.ndarray], least: int, enough_seconds: float
) -> np.ndarray:
    """Seconds of each call: of all of them, or of at least so many as take long enough together."""
    seconds: list[float] = []
    for batch in batches:
        began = time.perf_counter_ns()
        run(batch)
        seconds.append((time.perf_counter_ns() - began) / 1e9)
        if len(seconds) >= least and sum(seconds) > enough_seconds:
            break
    return np.array(seconds)


def cost(network: nn.Module, spec: InputSpec) -> dict[str, float]:
    """Parameters, MACs of one row, and size of a network."""
    return {"params": count_params(network), "macs": count_macs(network, spec), "size_mb": weights_mb(network)}
