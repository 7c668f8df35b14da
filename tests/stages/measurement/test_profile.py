"""What a model costs, against counting by hand and a clock that the test turns."""

from __future__ import annotations

import gc
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info
from torch import nn

from distillery.models import MODELS, InputSpec
from distillery.stages.measurement import profile

TABLE, IMAGE = InputSpec("table", (6,), 3), InputSpec("image", (1, 8, 8), 3, (0.0,), (1.0,))


def convolution() -> nn.Module:
    """A 3 x 3 convolution to two channels with a bias, normalised, and a head."""
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(128, 3))


def test_parameters_and_operations_are_counted() -> None:
    """golden: a layer n -> m has n·m + m parameters and n·m multiplications, a 3 x 3 convolution 9 per pixel."""
    mlp = MODELS["mlp"](TABLE, hidden=[5])
    assert profile.count_params(mlp) == 6 * 5 + 5 + 5 * 3 + 3
    assert profile.count_macs(mlp, TABLE) == 6 * 5 + 5 * 3
    assert profile.count_params(convolution()) == 2 * 9 + 2 + 4 + 128 * 3 + 3
    assert profile.count_macs(convolution(), IMAGE) == 64 * 9 * 2 + 128 * 3


def test_size_is_of_weights_and_buffers() -> None:
    """golden: four bytes a number, running statistics included, eight for the counter of batches."""
    numbers = profile.count_params(convolution()) + 4
    assert profile.weights_mb(convolution()) == pytest.approx((4 * numbers + 8) / 1e6)
    assert profile.weights_mb(convolution().half()) == pytest.approx((2 * numbers + 8) / 1e6)


def test_latency_is_read_off_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: where the k-th call takes k tenths of a ms, numpy's percentiles, without the calls that warm up."""
    ticks = count()

    def clock() -> int:
        tick = next(ticks)
        return (tick % 2) * (tick // 2) * 100_000

    monkeypatch.setattr(profile, "time", SimpleNamespace(perf_counter_ns=clock))
    calls: list[tuple[int, ...]] = []
    rows = np.arange(12.0).reshape(4, 3)
    found = profile.latency(lambda batch: calls.append(batch.shape), rows, runs=40, batch_size=10)
    first = profile.WARM_UP
    assert calls == [(1, 3)] * (first + 40) + [(10, 3)] * 5
    percentiles = np.percentile(np.arange(first, first + 40), [50, 95, 99])
    assert [found[f"latency_ms_p{p}"] for p in (50, 95, 99)] == pytest.approx((percentiles / 10).tolist())
    assert found["throughput_per_s"] == pytest.approx(10 / ((first + 40 + 3) / 1e4))


def test_machine_settings_are_put_back() -> None:
    """property: one thread in every library, no garbage collection; as before after a model that raises."""
    threads, pools = torch.get_num_threads(), _pools()

    def breaks(batch: np.ndarray) -> None:
        assert torch.get_num_threads() == 1 and not gc.isenabled()
        assert set(_pools()) == {1}
        raise RuntimeError("broken model")

    with pytest.raises(RuntimeError, match="broken model"):
        profile.latency(breaks, np.zeros((2, 3)), 10)
    assert gc.isenabled() and torch.get_num_threads() == threads and _pools() == pools


def _pools() -> list[int]:
    """Threads of numpy's and scikit-learn's libraries."""
    return [pool["num_threads"] for pool in threadpool_info()]


def test_rows_are_used_in_turn() -> None:
    """property: single rows go round."""
    rows = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    seen: list[float] = []
    profile.latency(lambda batch: seen.append(float(batch[0, 0])), rows, 10)
    assert seen[:6] == [*rows[:, 0].tolist()] * 2


def test_a_network_costs_all_of_this() -> None:
    """reference: parameters, operations and size by their own functions."""
    network = MODELS["mlp"](TABLE, hidden=[5])
    assert profile.cost(network, TABLE) == {
        "params": profile.count_params(network),
        "macs": profile.count_macs(network, TABLE),
        "size_mb": profile.weights_mb(network),
    }


def test_a_slow_model_is_timed_by_fewer_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """golden: a call of a second warms up once, is timed ten times, and five times in bulk, of 300 that were asked."""
    ticks = count()
    monkeypatch.setattr(profile, "time", SimpleNamespace(perf_counter_ns=lambda: next(ticks) * 1_000_000_000))
    calls: list[tuple[int, ...]] = []
    found = profile.latency(lambda batch: calls.append(batch.shape), np.zeros((4, 3)), runs=300, batch_size=10)
    assert calls == [(1, 3)] * (1 + profile.LEAST_RUNS) + [(10, 3)] * 5
    assert found["latency_ms_p50"] == pytest.approx(1000)
