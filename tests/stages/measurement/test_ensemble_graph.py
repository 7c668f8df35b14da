"""An ensemble as one graph: its answers, and that every member works in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from distillery.models import MODELS, InputSpec
from distillery.ops.pooling import Pooling
from distillery.stages.measurement import runtimes
from distillery.stages.measurement.ensemble_graph import ensemble_graph

TABLE = InputSpec("table", (6,), 3)
ROWS = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
POOLINGS = {
    "probabilities": Pooling(np.array([0.25, 0.75]), "probs"),
    "logits": Pooling(np.array([0.25, 0.75]), "logits", 2.0),
    "one member": Pooling(np.array([0.0, 1.0]), "probs", 0.5),
    "linear map": Pooling(np.random.default_rng(1).normal(size=(2 * 3 + 1, 3)), "logits", 1.5),
}


@pytest.fixture(scope="module")
def members() -> list[onnx.ModelProto]:
    """Graphs of two networks of different size."""
    return [runtimes.network_graph(MODELS["mlp"](TABLE, hidden=[hidden]), TABLE) for hidden in (5, 7)]


@pytest.mark.parametrize("name", POOLINGS)
def test_a_graph_of_members_answers_as_the_ensemble(name: str, members: list[onnx.ModelProto]) -> None:
    """reference: the pool of the members' own answers by `Pooling.apply`, for one row and for several."""
    pooling = POOLINGS[name]
    expected = pooling.apply(np.stack([runtimes.in_onnxruntime(member).answer(ROWS) for member in members]))
    graph = ensemble_graph([members[place] for place in pooling.active], pooling)
    assert graph is not None
    onnx.checker.check_model(graph)
    runner = runtimes.in_onnxruntime(graph)
    np.testing.assert_allclose(runner.answer(ROWS), expected, atol=1e-5)
    np.testing.assert_allclose(runner.answer(ROWS[:1]), expected[:1], atol=1e-5)
    assert runner.runtime == "onnxruntime"


def test_every_member_works(members: list[onnx.ModelProto], tmp_path: Path) -> None:
    """property: onnxruntime takes no two members for one, not even copies, so that the latency is that of all."""
    graph = ensemble_graph([members[0]] * 5, Pooling(np.full(5, 0.2), "probs"))
    assert graph is not None
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert sum("Gemm" in kind for kind in kinds) == 5 * 2


def test_what_one_file_cannot_hold_is_no_graph(members: list[onnx.ModelProto], monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: None, and the members are asked one after another."""
    monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", 100)
    assert ensemble_graph(members, POOLINGS["logits"]) is None
