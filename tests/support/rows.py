"""Rows of an evaluation with made-up figures."""

from __future__ import annotations

from typing import Any

from distillery.stages.evaluation.record import ModelRow
from distillery.stages.roles import Role


def a_row(role: Role, name: str = "net", **values: Any) -> ModelRow:
    """A model with an accuracy of .5 and an NLL of .7 on both splits, apart from the given values."""
    usual: dict[str, Any] = {
        "accuracy": 0.5,
        "nll": 0.7,
        "brier": 0.4,
        "ece": 0.02,
        "val_search_accuracy": 0.5,
        "val_search_nll": 0.7,
        "recall": [0.5, 0.5],
        "runtime": "onnxruntime",
        "size_mb": 0.1,
        "params": 100,
        "latency_ms_p50": 0.5,
    }
    return ModelRow(role=role, name=name, **{**usual, **values})
