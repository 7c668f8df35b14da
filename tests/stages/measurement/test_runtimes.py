"""Models ready to answer: what they answer, where, and that an ensemble is its members and the pool, no more."""

from __future__ import annotations

import logging
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from distillery.models import MODELS, InputSpec
from distillery.ops.pooling import Pooling
from distillery.stages.measurement import profile, runtimes
from distillery.stages.measurement.runtimes import Runner
from distillery.stages.teachers.members import EstimatorMember

TABLE = InputSpec("table", (6,), 3)
ROWS = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)


class ByHand(nn.Module):
    """A network that looks at its numbers to choose its way, which no graph can."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layer(rows) if float(rows.sum()) > 0 else -self.layer(rows)


@pytest.fixture(scope="module")
def networks() -> list[nn.Module]:
    """Two networks of different size."""
    return [MODELS["mlp"](TABLE, hidden=[hidden]).eval() for hidden in (5, 7)]


@pytest.fixture(scope="module")
def runners(networks: list[nn.Module]) -> list[Runner]:
    """The same in onnxruntime."""
    return [runtimes.in_onnxruntime(runtimes.network_graph(network, TABLE)) for network in networks]


def test_every_runtime_answers_as_the_model_does(networks: list[nn.Module], runners: list[Runner]) -> None:
    """reference: logits by the network itself, log-probabilities by the classifier, one row or several."""
    for network, runner in zip(networks, runners, strict=True):
        with torch.no_grad():
            expected = network(torch.from_numpy(ROWS)).numpy()
        in_torch = runtimes.in_torch(network)
        assert (runner.runtime, in_torch.runtime) == ("onnxruntime", "torch")
        for ready in (runner, in_torch):
            np.testing.assert_allclose(ready.answer(ROWS), expected, atol=1e-5)
            np.testing.assert_allclose(ready.answer(ROWS[:1]), expected[:1], atol=1e-5)
    tree = DecisionTreeClassifier(max_depth=2).fit(ROWS, np.arange(20) % 3)
    native = runtimes.in_scikit_learn(EstimatorMember(tree, 3))
    expected = np.log(np.clip(tree.predict_proba(ROWS), 1e-7, 1))
    np.testing.assert_allclose(native.answer(ROWS), expected, rtol=1e-5)
    assert native.runtime == "scikit-learn"


def test_a_classifier_of_many_threads_is_asked_on_one() -> None:
    """property: in a copy; the classifier itself keeps its threads."""
    seen: list[int] = []

    class Watched(RandomForestClassifier):
        def predict_proba(self, rows: np.ndarray) -> np.ndarray:
            seen.append(self.n_jobs)
            return np.full((len(rows), 3), 1 / 3)

    forest = Watched(n_jobs=2)
    runtimes.in_scikit_learn(EstimatorMember(forest, 3)).answer(ROWS)
    assert seen == [1] and forest.n_jobs == 2


def test_weights_beyond_a_file_of_onnx_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """contract of error messages: before the export begins."""
    monkeypatch.setattr(runtimes, "weights_mb", lambda _: 2200.0)
    with pytest.raises(runtimes.NotExportable, match="2 GB"):
        runtimes.network_graph(nn.Identity(), TABLE)


POOLINGS = {
    "probabilities": Pooling(np.array([0.25, 0.75]), "probs"),
    "logits": Pooling(np.array([0.25, 0.75]), "logits", 2.0),
    "one member": Pooling(np.array([0.0, 1.0]), "probs", 0.5),
    "linear map": Pooling(np.random.default_rng(1).normal(size=(2 * 3 + 1, 3)), "logits"),
}


@pytest.mark.parametrize("name", POOLINGS)
def test_an_ensemble_in_one_function_is_the_ensemble(name: str, runners: list[Runner]) -> None:
    """reference: the pool of its members' logits by `Pooling.apply`, up to a constant per row for pooled logits."""
    pooling = POOLINGS[name]
    expected = pooling.apply(np.stack([runner.answer(ROWS) for runner in runners]))
    found = runtimes.pooled([runners[place] for place in pooling.active], pooling).answer(ROWS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_ensemble_survives_members_that_are_sure() -> None:
    """edge: logits of a thousand neither overflow nor become infinite."""
    sure = Runner(lambda rows: np.array([[1e3, 0.0, -1e3]], np.float32), "torch")
    found = runtimes.pooled([sure, sure], Pooling(np.array([0.5, 0.5]), "probs")).answer(ROWS[:1])
    assert np.isfinite(found).all() and found[0, 0] == pytest.approx(0, abs=1e-6)


def test_an_ensemble_takes_as_long_as_its_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """golden: by a clock that moves only while a member works, 12 members of 1 to 12 ms take 78 ms together."""
    ticks = count()
    now = [0]

    def member(milliseconds: int) -> Runner:
        def answer(rows: np.ndarray) -> np.ndarray:
            now[0] += milliseconds * 1_000_000
            next(ticks)
            return np.zeros((len(rows), 3), np.float32)

        return Runner(answer, "onnxruntime")

    monkeypatch.setattr(profile, "time", SimpleNamespace(perf_counter_ns=lambda: now[0]))
    members = [member(number) for number in range(1, 13)]
    alone = [profile.latency(m.answer, ROWS, 10)["latency_ms_p50"] for m in members]
    before = next(ticks)
    whole = runtimes.pooled(members, Pooling(np.full(12, 1 / 12), "probs"))
    assert next(ticks) == before + 1  # nothing is asked before the first call
    assert profile.latency(whole.answer, ROWS, 10)["latency_ms_p50"] == pytest.approx(sum(alone)) == 78
    assert whole.runtime == "onnxruntime"


def test_runtimes_are_named_once() -> None:
    """golden: in a fixed order."""
    assert runtimes.named(["torch", "scikit-learn", "torch"]) == "scikit-learn and torch"


def test_what_cannot_be_exported_is_told_in_one_line() -> None:
    """contract of error messages: the exporter's first line; its log is as loud as before."""
    before = logging.getLogger("torch.onnx").level
    with pytest.raises(runtimes.NotExportable) as error:
        runtimes.network_graph(ByHand(), TABLE)
    assert str(error.value) and "\n" not in str(error.value)
    assert logging.getLogger("torch.onnx").level == before
