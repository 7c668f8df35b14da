"""Trials of a study with made-up figures."""

from __future__ import annotations

from typing import Any

from distillery.config.search_space import Setting
from distillery.stages.search.record import Trial
from distillery.stages.search.trials import Proposed


def proposed(*settings: Setting) -> tuple[Proposed, ...]:
    """Trials of the smaller capacity with these settings, which are still to be trained."""
    return tuple(Proposed(number, "small", setting) for number, setting in enumerate(settings))


def a_trial(capacity: str = "small", **values: Any) -> Trial:
    """A complete trial with an NLL of .5 and an accuracy of .8, apart from the given values."""
    usual: dict[str, Any] = {
        "number": 0,
        "setting": {},
        "state": "complete",
        "curve": {},
        "nll": 0.5,
        "nll_se": 0.02,
        "accuracy": 0.8,
        "accuracy_se": 0.01,
        "params": 9,
        "macs": 7,
        "size_mb": 0.1,
        "latency_ms_p50": 2.0,
        "latency_ms_p95": 2.0,
        "latency_ms_p99": 2.0,
        "throughput_per_s": 1.0,
    }
    return Trial.model_validate({**usual, "capacity": capacity, **values})
