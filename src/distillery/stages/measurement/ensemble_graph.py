"""An ensemble as one ONNX graph, as it would be served: members side by side, and their pool. M members, C classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper

from distillery.ops.log_probs import FLOOR, TINY
from distillery.ops.pooling import Pooling

INPUTS, LOGITS = "inputs", "logits"  # of every graph that `runtimes.network_graph` gives, and of this one


def ensemble_graph(members: Sequence[onnx.ModelProto], pooling: Pooling) -> onnx.ModelProto | None:
    """``inputs`` float32 [N, ...], encoded -> ``logits`` float32 [N, C] of the ensemble.

    None where one graph cannot hold them: they take more bytes than a file of ONNX can have, or have functions of
    their own.

    Args:
        members: Graphs of the members that count, in their order.
        pooling: How their logits become the ensemble's.
    """
    size = sum(member.ByteSize() for member in members)
    if size >= onnx.checker.MAXIMUM_PROTOBUF or any(member.functions for member in members):
        return None
    builder = _Builder()
    for number, member in enumerate(members):
        builder.add_member(member, f"member_{number}.")
    builder.add_pool(pooling.narrowed())
    first = members[0]
    graph = helper.make_graph(
        builder.nodes, "ensemble", [first.graph.input[0]], [first.graph.output[0]], builder.constants
    )
    return helper.make_model(graph, opset_imports=first.opset_import, ir_version=first.ir_version)


class _Builder:
    """Nodes and constants of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._members: list[str] = []

    def add_member(self, member: onnx.ModelProto, prefix: str) -> None:
        """All of a member behind the common input, under names of its own."""
        own = compose.add_prefix(member, prefix)
        for node in own.graph.node:
            for index, name in enumerate(node.input):
                if name == prefix + INPUTS:
                    node.input[index] = INPUTS
            self.nodes.append(node)
        self.constants.extend(own.graph.initializer)
        self._members.append(prefix + LOGITS)

    def add_pool(self, pooling: Pooling) -> None:
        """What `pooling.pool_logits` computes."""
        axis = self._constant("axis", np.array([1], np.int64))
        apart = [self._node("Unsqueeze", [name, axis], f"{name}.apart") for name in self._members]
        logits = self._node("Concat", apart, "members", axis=1)
        if pooling.weights.ndim == 2:
            pooled = self._mapped(logits, pooling.weights)
        else:
            kind = "Softmax" if pooling.pool == "probs" else "LogSoftmax"
            values = self._node(kind, [logits], "values", axis=-1)
            weights = self._constant("weights", pooling.weights[None])
            summed = self._node("MatMul", [weights, values], "summed")
            pooled = self._node("Squeeze", [summed, axis], "pooled")
            if pooling.pool == "probs":
                tiny = self._constant("tiny", np.array(TINY))
                pooled = self._node("Log", [self._node("Max", [pooled, tiny], "positive")], "logs")
        temperature = self._constant("temperature", np.array(pooling.temperature))
        self._node("Div", [pooled, temperature], LOGITS)

    def _mapped(self, logits: str, linear_map: np.ndarray) -> str:
        """The members' log-probabilities, side by side, through a linear map [M·C + 1, C] with its bias last."""
        logs = self._node("LogSoftmax", [logits], "values", axis=-1)
        floored = self._node("Max", [logs, self._constant("floor", np.array(np.log(FLOOR)))], "floored")
        flat = self._node("Flatten", [floored], "side_by_side", axis=1)
        mapped = self._node("MatMul", [flat, self._constant("map", linear_map[:-1])], "mapped")
        return self._node("Add", [mapped, self._constant("bias", linear_map[-1])], "pooled")

    def _node(self, op: str, inputs: list[str], output: str, axis: int | None = None) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], axis=axis))
        return output

    def _constant(self, name: str, value: np.ndarray) -> str:
        kind = value.dtype if value.dtype == np.int64 else np.float32
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, kind), name))
        return name
