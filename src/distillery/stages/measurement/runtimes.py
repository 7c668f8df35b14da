"""Models that are ready to answer, each as one function in a runtime with a name. B rows, C classes, M members."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from distillery.errors import first_line
from distillery.models import InputSpec
from distillery.ops.log_probs import FLOOR, TINY
from distillery.ops.pooling import Pooling, side_by_side
from distillery.stages.data import preprocess
from distillery.stages.measurement.profile import weights_mb
from distillery.stages.teachers.members import EstimatorMember

ONNXRUNTIME, TORCH, SCIKIT_LEARN = "onnxruntime", "torch", "scikit-learn"


class NotExportable(ValueError):
    """A network that torch cannot turn into ONNX."""


@dataclass(frozen=True)
class Runner:
    """A model as a function of encoded rows [B, ...] that returns logits float32 [B, C], on one thread.

    Whatever can be done before the first call is done: the function holds the model's own work alone.
    """

    answer: Callable[[np.ndarray], np.ndarray]
    runtime: str


def network_graph(network: nn.Module, spec: InputSpec) -> onnx.ModelProto:
    """``inputs`` float32 [N, ...], encoded -> ``logits`` float32 [N, C].

    Raises:
        NotExportable: torch cannot export the network.
    """
    if 1e6 * weights_mb(network) >= onnx.checker.MAXIMUM_PROTOBUF:
        raise NotExportable("its weights take more than the 2 GB that an ONNX file can hold")
    # The exporter prints its progress and warns about its own future; neither is news to a user.
    quiet = logging.getLogger("torch.onnx")
    before, quiet.level = quiet.level, logging.ERROR
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network.cpu().eval(),
                (torch.zeros(2, *spec.shape),),
                dynamo=True,
                input_names=["inputs"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1 << 20)},),
                opset_version=preprocess.OPSET,
                verbose=False,
            )
    except Exception as error:  # the network's own code runs in there, and may raise anything
        raise NotExportable(first_line(error)) from error
    finally:
        quiet.level = before
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    # torch notes the lines of code behind each node, with the paths of this machine: nothing that a model should hold.
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    return model


def in_onnxruntime(graph: onnx.ModelProto | Path) -> Runner:
    """A network's graph, or the file that holds it, in onnxruntime."""
    running = preprocess.session(str(graph) if isinstance(graph, Path) else graph, threads=1)

    def answer(rows: np.ndarray) -> np.ndarray:
        (logits,) = running.run(["logits"], {"inputs": np.asarray(rows, np.float32)})
        return np.asarray(logits)

    return Runner(answer, ONNXRUNTIME)


def in_torch(network: nn.Module) -> Runner:
    """A network in torch, on the CPU."""
    network.cpu().eval()

    def answer(rows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(rows).float()).numpy()

    return Runner(answer, TORCH)


def in_scikit_learn(member: EstimatorMember) -> Runner:
    """A fitted classifier, by its own `predict_proba`, on one thread."""
    estimator = copy.copy(member.estimator)
    if "n_jobs" in estimator.get_params(deep=False):
        estimator.set_params(n_jobs=1)
    single = EstimatorMember(estimator, member.classes)
    return Runner(lambda rows: single.logits(rows, rows), SCIKIT_LEARN)


def pooled(members: Sequence[Runner], pooling: Pooling) -> Runner:
    """An ensemble as one function: its members one after another, then the pool in numpy.

    Args:
        members: The members that count, in their order.
        pooling: How their logits become the ensemble's.
    """
    answers = [member.answer for member in members]
    used = pooling.narrowed()
    weights = np.asarray(used.weights, np.float32)

    def answer(rows: np.ndarray) -> np.ndarray:
        logits_MBC = np.array([ask(rows) for ask in answers])
        return _pool(logits_MBC, weights, used.pool) / np.float32(used.temperature)

    return Runner(answer, named(member.runtime for member in members))


def _pool(logits_MBC: np.ndarray, weights: np.ndarray, pool: str) -> np.ndarray:
    """What `pooling.pool_logits` computes, in float32 and with few calls: each takes as long as a small layer."""
    logits_MBC -= logits_MBC.max(-1, keepdims=True)
    exps_MBC = np.exp(logits_MBC)
    sums_MB1 = exps_MBC.sum(-1, keepdims=True)
    if weights.ndim == 2:
        logs_MBC = np.maximum(logits_MBC - np.log(sums_MB1), np.log(FLOOR, dtype=np.float32))
        return np.asarray(side_by_side(logs_MBC) @ weights[:-1] + weights[-1])
    if pool == "probs":
        probs_BC = _weighted(weights, exps_MBC / sums_MB1)
        return np.log(np.maximum(probs_BC, TINY))
    return _weighted(weights, logits_MBC - np.log(sums_MB1))


def _weighted(weights: np.ndarray, values_MBC: np.ndarray) -> np.ndarray:
    """Weighted sum over the members [B, C], as one product of a row and a matrix."""
    return np.asarray((weights @ values_MBC.reshape(len(weights), -1)).reshape(values_MBC.shape[1:]))


def named(runtimes: Iterable[str]) -> str:
    """The names of several runtimes, each once."""
    return " and ".join(sorted(set(runtimes)))
