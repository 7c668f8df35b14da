"""Stage `export`: the file that is served gives what the network gives, from raw rows."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from scipy.special import softmax

from distillery.config import experiment
from distillery.config.experiment import Capacity, Student
from distillery.config.search_space import Setting
from distillery.serving.answers import classes_of, reading_of
from distillery.stages.data import dataset, preparation, preprocess
from distillery.stages.export import onnx_model
from distillery.stages.students.student_files import StudentRecord, load_student
from distillery.stages.students.student_training import TrainingRequest, train_baselines
from distillery.store import Handle, Store
from distillery.training.single import predict

ROOT = Path(__file__).parents[3]
NARROW = {"channels": [2, 4, 4, 8], "stem_width": 4}


def write_table(path: Path) -> None:
    """Rows with numbers, gaps, text under odd names, and classes that are no identifiers."""
    generator = np.random.default_rng(0)
    labels = np.arange(240) % 3
    frame = pd.DataFrame(
        {
            "width (mm)": generator.normal(size=240) + labels,
            "inputs": np.where(generator.random(240) < 0.2, np.nan, generator.normal(size=240)),
            "colour": generator.choice(["red", "blue", None], 240),
            "class": np.array(["class a", "b/ü", "c"])[labels],
        }
    )
    frame.to_csv(path, index=False)


EXPERIMENTS: dict[str, Any] = {
    "table": {
        "data": {"source": "table", "label": "class"},
        "capacity": {"name": "mlp", "family": "mlp", "hidden": [6]},
    },
    "numbers": {
        "data": {"source": "table", "label": "class", "drop": ["colour"]},
        "capacity": {"name": "mlp", "family": "mlp", "hidden": [6]},
    },
    "image": {
        "data": {"source": "digits", "image_size": 16, "split": {"train": 200, "test": 100}},
        "capacity": {"name": "net", "family": "timm", "arch": "resnet10t", "kwargs": NARROW},
    },
}


@pytest.fixture(scope="module", params=EXPERIMENTS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A student of one epoch and its exported file."""
    folder, given = tmp_path_factory.mktemp("export"), EXPERIMENTS[request.param]
    write_table(folder / "rows.csv")
    more = {"path": str(folder / "rows.csv")} if request.param != "image" else {}
    data, store = experiment.Data(**given["data"], **more), Store(folder / "store")
    rows = preparation.read_source(data)
    handle = preparation.prepare(data, rows, store)
    capacity = Capacity(**given["capacity"])
    trained = Student(capacities=(capacity,), recipe={"epochs": 1, "lr": 0.01})
    wanted = [TrainingRequest(Setting(temperature=1, alpha=0), 0)]
    (student,) = train_baselines(capacity, wanted, trained, handle, store)
    exported = onnx_model.export_student(student, handle, rows, 10, store)
    found = SimpleNamespace(kind=request.param, rows=rows, data=handle, student=student, exported=exported, store=store)
    found.dataset = dataset.Dataset(handle)
    found.session = preprocess.session(str(exported.file(onnx_model.MODEL)))
    network = load_student(student, found.dataset.spec)
    found.expected = softmax(predict(network, np.array(found.dataset.inputs)).astype(np.float64), axis=-1)
    return found


def raw(served: SimpleNamespace, ids: np.ndarray) -> dict[str, np.ndarray]:
    """A batch of raw rows; images of one size may share one."""
    feeds = [served.rows.feed(ids[i : i + 1]) for i in range(len(ids))]
    return {name: np.concatenate([f[name] for f in feeds]) for name in feeds[0]}


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_probabilities_are_the_networks(served: SimpleNamespace, batch: int) -> None:
    """reference: torch's softmax within 1e-5, for raw rows in batches of any size; labels are the top class's name."""
    ids = served.dataset.splits["test"][: 3 * batch]
    for start in range(0, len(ids), batch):
        part = ids[start : start + batch]
        feeds = raw(served, part)
        found = onnx_model.probabilities(served.session, feeds)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, served.expected[part], atol=1e-5)
        (labels,) = served.session.run(["label"], feeds)
        assert labels.tolist() == [served.dataset.classes[i] for i in served.expected[part].argmax(-1)]


def test_the_students_temperature_is_in_the_file(served: SimpleNamespace, tmp_path: Path) -> None:
    """reference: with another temperature in the student's file, the export's probabilities are those of its logits."""
    copy = tmp_path / "student"
    shutil.copytree(served.student.path, copy)
    record = StudentRecord.read(served.student)
    record.model_copy(update={"calibration_temperature": 3.0}).write(copy)
    changed = Handle(**{**vars(served.student), "path": str(copy), "fingerprint": "hotter"})
    exported = onnx_model.export_student(changed, served.data, served.rows, 10, Store(tmp_path / "store"))
    ids = served.dataset.splits["test"][:9]
    found = onnx_model.predict_rows(preprocess.session(str(exported.file(onnx_model.MODEL))), served.rows, ids)
    hotter = np.log(served.expected[ids]) * record.calibration_temperature / 3
    np.testing.assert_allclose(found, softmax(hotter, axis=-1), atol=1e-5)
    assert np.abs(found - served.expected[ids]).max() > 1e-3


def test_all_rows_of_a_source_can_be_asked(served: SimpleNamespace) -> None:
    """reference: rows in the order of their ids, batched as the source gives them."""
    ids = served.dataset.splits["test"][[5, 0, 3]]
    np.testing.assert_allclose(
        onnx_model.predict_rows(served.session, served.rows, ids), served.expected[ids], atol=1e-5
    )


def test_the_file_says_what_it_takes_and_gives(served: SimpleNamespace) -> None:
    """golden: class names travel in the file; one input for images and for numbers alone, else one for each column."""
    assert classes_of(served.session) == served.dataset.classes
    inputs, outputs = served.session.get_inputs(), [o.name for o in served.session.get_outputs()]
    if served.kind == "image":
        assert [(i.name, i.type) for i in inputs] == [("image", "tensor(uint8)")]
        assert outputs == ["label", "probabilities", "logits"]
        feeds = raw(served, served.dataset.splits["test"][:4])
        probs, logits = served.session.run(["probabilities", "logits"], feeds)
        np.testing.assert_allclose(softmax(logits, axis=-1), probs, atol=1e-6)
        assert reading_of(served.session).columns == ()
        return
    named = list(served.rows.frame.columns)
    kinds = {column.name: column.kind for column in reading_of(served.session).columns}
    assert kinds == {name: "category" if name == "colour" else "number" for name in named}
    assert outputs == ["label", "probability:b/ü", "probability:c", "probability:class a"]
    if served.kind == "numbers":
        assert [(i.name, i.type, i.shape[1]) for i in inputs] == [("numbers", "tensor(double)", 2)]
    else:
        kinds = {"width (mm)": "tensor(double)", "inputs": "tensor(double)", "colour": "tensor(string)"}
        assert {i.name: i.type for i in inputs} == kinds


ALONE = """
import json, sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
feeds = {}
for name, (kind, values) in json.load(sys.stdin).items():
    feeds[name] = np.array(values, dtype=kind)
print(json.dumps(session.run(["label"], feeds)[0].tolist()))
assert not {"torch", "distillery", "onnx", "pandas", "sklearn"} & set(sys.modules)
"""


def test_the_file_names_no_code_and_no_folder_of_this_machine(served: SimpleNamespace) -> None:
    """contract: where the package is installed is not in the file, so that its size does not depend on it."""
    content = served.exported.file(onnx_model.MODEL).read_bytes()
    assert str(ROOT).encode() not in content and b".py" not in content
    assert b"distillery.stages" not in content


def test_the_file_needs_onnxruntime_alone(served: SimpleNamespace) -> None:
    """golden: in a process that imports nothing of ours, raw rows give class names."""
    ids = served.dataset.splits["test"][:5]
    feeds = {k: (v.dtype.str if v.dtype != object else "O", v.tolist()) for k, v in raw(served, ids).items()}
    command = [sys.executable, "-c", ALONE, str(served.exported.file(onnx_model.MODEL))]
    found = subprocess.run(command, input=json.dumps(feeds), capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == [served.dataset.classes[i] for i in served.expected[ids].argmax(-1)]


@pytest.mark.parametrize("served", ["numbers"], indirect=True)
def test_the_documented_example_answers(served: SimpleNamespace, tmp_path: Path) -> None:
    """golden: the program in docs/production.md, for a table of numbers, gives the network's probabilities."""
    text = (ROOT / "docs" / "production.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ids = served.dataset.splits["test"][:5]
    served.rows.frame.iloc[ids].to_csv(tmp_path / "rows.csv", index=False)
    command = [sys.executable, "-c", program, str(served.exported.file(onnx_model.MODEL)), str(tmp_path / "rows.csv")]
    found = ast.literal_eval(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert [list(row) for row in found] == [served.dataset.classes] * 5
    np.testing.assert_allclose([list(row.values()) for row in found], served.expected[ids], atol=1e-5)


def test_rows_of_every_class_are_compared_one_by_one_and_together(
    served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """property: of as many rows as there are classes one is of each, and both ways of asking see all of them."""
    asked: list[int] = []
    sizes: list[int] = []
    feed, answer = onnx_model.feed_rows, onnx_model.probabilities

    def watched_rows(running: Any, rows: Any, batch: np.ndarray) -> Any:
        asked.extend(batch.tolist())
        return feed(running, rows, batch)

    def watched_answers(running: Any, feeds: dict[str, np.ndarray]) -> np.ndarray:
        found = answer(running, feeds)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(onnx_model, "PARITY_ROWS", len(served.dataset.classes))
    monkeypatch.setattr(onnx_model, "feed_rows", watched_rows)
    monkeypatch.setattr(onnx_model, "probabilities", watched_answers)
    monkeypatch.setattr(onnx_model, "request_latency", lambda *_: {})
    network = load_student(served.student, served.dataset.spec)
    onnx_model._check(served.exported.file(onnx_model.MODEL), network, served.dataset, served.rows, 10)
    count = len(served.dataset.classes)
    labels = dict(zip(served.dataset.splits["val_search"], served.dataset.labels("val_search"), strict=True))
    assert sorted(labels[row] for row in asked) == list(range(count))
    assert sizes == [count, *[1] * count]


def test_rows_are_put_together_within_bounds(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """property: at most so many rows or bytes at once, in their order."""
    ids = served.dataset.splits["test"][:10]
    monkeypatch.setattr(onnx_model, "BATCH", 4)
    assert [len(feeds) for feeds in onnx_model._together(served.session, served.rows, ids)] == [4, 4, 2]
    monkeypatch.setattr(onnx_model, "PART_BYTES", 1)
    assert [len(feeds) for feeds in onnx_model._together(served.session, served.rows, ids)] == [1] * 10


def test_the_export_is_checked_and_timed(served: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: parity, size and requests are measured; a file that differs from the network is refused."""
    figures = served.exported.metrics
    assert figures["parity"] < 1e-5 and figures["request_ms_p50"] > 0 and figures["requests_per_s"] > 0
    assert not any("latency" in name for name in figures)  # that is the evaluation's word, from encoded rows
    assert figures["onnx_mb"] == served.exported.file(onnx_model.MODEL).stat().st_size / 1e6
    again = onnx_model.export_student(served.student, served.data, served.rows, 10, served.store)
    assert again.cached

    def wrong(*_: Any) -> onnx.ModelProto:
        model = onnx.load(served.exported.file(onnx_model.MODEL))
        for constant in model.graph.initializer:
            if constant.name.startswith("network.") and constant.name.endswith("weight"):
                values = onnx.numpy_helper.to_array(constant)
                constant.CopyFrom(onnx.numpy_helper.from_array(-values, constant.name))
        return model

    monkeypatch.setattr(onnx_model, "assemble", wrong)
    changed = Handle(**{**vars(served.student), "fingerprint": "another"})
    with pytest.raises(ArithmeticError, match="differs from the network"):
        onnx_model.export_student(changed, served.data, served.rows, 10, served.store)
