"""The exported student in int8: near the exact one, smaller, measured on test."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from distillery.config import experiment
from distillery.config.experiment import Capacity, Student
from distillery.config.search_space import Setting
from distillery.ops.metrics import quality
from distillery.serving.answers import classes_of
from distillery.stages.data import dataset, preparation, preprocess
from distillery.stages.export import onnx_model, quantized
from distillery.stages.export.record import ServedModels
from distillery.stages.students.student_training import TrainingRequest, train_baselines
from distillery.store import Store

NARROW = {"channels": [8, 16, 16, 24], "stem_width": 8}
GIVEN = {
    "table": (
        {"source": "sklearn", "dataset": "breast_cancer"},
        {"name": "mlp", "family": "mlp", "hidden": [32, 16]},
        {"epochs": 20, "lr": 0.01},
    ),
    "image": (
        {"source": "digits", "image_size": 16, "split": {"train": 600, "test": 300}},
        {"name": "net", "family": "timm", "arch": "resnet10t", "kwargs": NARROW},
        {"epochs": 4, "lr": 0.02},
    ),
}


@pytest.fixture(scope="module", params=GIVEN)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A trained network, its export and what was measured of both files."""
    (source, family, recipe), store = GIVEN[request.param], Store(tmp_path_factory.mktemp("served"))
    data = experiment.Data(**source)
    rows = preparation.read_source(data)
    handle = preparation.prepare(data, rows, store)
    capacity = Capacity(**family)
    trained = Student(capacities=(capacity,), recipe=recipe)
    (student,) = train_baselines(
        capacity, [TrainingRequest(Setting(temperature=1, alpha=0), 0)], trained, handle, store
    )
    exported = onnx_model.export_student(student, handle, rows, 20, store)
    found = quantized.measure_served(exported, handle, rows, 20, store)
    return SimpleNamespace(rows=rows, data=handle, exported=exported, found=found, dataset=dataset.Dataset(handle))


def test_figures_are_those_of_the_files(served: SimpleNamespace) -> None:
    """reference: accuracy and NLL of each file's own answers on test; int8 is smaller and nearly as good."""
    rows = {model.name: model for model in ServedModels.read(served.found).models}
    assert list(rows) == ["float32", "int8"]
    ids, labels = served.dataset.splits["test"], served.dataset.labels("test")
    files = {"float32": served.exported.file(onnx_model.MODEL), "int8": served.found.file(quantized.INT8)}
    for name, file in files.items():
        probs = onnx_model.predict_rows(preprocess.session(str(file)), served.rows, ids)
        expected = quality(np.log(np.maximum(probs, 1e-12)), labels)
        assert rows[name].accuracy == expected["accuracy"]
        assert rows[name].nll == pytest.approx(expected["nll"], rel=1e-5)
        assert rows[name].size_mb == file.stat().st_size / 1e6 and rows[name].request_ms_p50 > 0
        assert (rows[name].latency_ms_p50 is not None) is (name == "int8")  # the student's own stands in the evaluation
    assert rows["int8"].size_mb < rows["float32"].size_mb
    assert rows["int8"].accuracy == pytest.approx(rows["float32"].accuracy, abs=0.03)
    assert rows["int8"].nll != rows["float32"].nll
    assert served.found.metrics["int8_nll"] == rows["int8"].nll


def test_the_int8_file_is_served_like_the_other(served: SimpleNamespace) -> None:
    """contract: the same inputs, outputs and class names; weights are whole numbers of eight bits."""
    graph = onnx.load(served.found.file(quantized.INT8))
    exact = preprocess.session(str(served.exported.file(onnx_model.MODEL)))
    small = preprocess.session(graph)
    for each in ("get_inputs", "get_outputs"):
        names = [[(i.name, i.type) for i in getattr(s, each)()] for s in (exact, small)]
        assert names[0] == names[1]
    assert classes_of(small) == json.loads(json.dumps(served.dataset.classes))
    assert {onnx.TensorProto.INT8} <= {i.data_type for i in graph.graph.initializer}


def test_what_cannot_be_quantised_has_no_int8_file(served: SimpleNamespace) -> None:
    """contract: a network without a matrix gives None."""
    spec = served.dataset.spec

    class Sums(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows.flatten(1)[:, : spec.classes].tanh()

    assert quantized.quantized(onnx_model.network_graph(Sums(), spec), served.dataset) is None
