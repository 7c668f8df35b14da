"""A trained table written back in every way that programs write it: each way of asking gives the same answers."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from mlflow.pyfunc import scoring_server
from onnx import helper, numpy_helper

from distillery.flows.tracking.model_files import model_options
from distillery.models import InputSpec
from distillery.prediction.predict_table import predict_file
from distillery.serving.answers import Answers
from distillery.sources import SOURCES, Rows
from distillery.stages.data.preprocess import session, table_graph
from distillery.stages.export.onnx_model import assemble

CLASSES = ["no", "yes"]
COUNT = 200


def raw_frame(seed: int = 0) -> pd.DataFrame:
    """Columns of every kind, with gaps, as Python's own types."""
    draw = np.random.default_rng(seed)

    def holes(values: list[Any], share: float = 0.1) -> list[Any]:
        return [None if draw.random() < share else value for value in values]

    day = datetime.datetime(2024, 2, 28)
    times = [day + datetime.timedelta(minutes=int(m)) for m in draw.integers(0, 100_000, COUNT)]
    return pd.DataFrame(
        {
            "size": pd.Series(holes([float(v) for v in draw.normal(size=COUNT).round(3)]), dtype=object),
            "count": pd.Series([int(v) for v in draw.integers(0, 50, COUNT)], dtype=object),
            "member": pd.Series(holes([bool(v) for v in draw.random(COUNT) < 0.5]), dtype=object),
            "zip": pd.Series(holes([f"{v:05d}" for v in draw.choice([2139, 7030, 94110], COUNT)]), dtype=object),
            "code": pd.Series(holes([int(v) for v in draw.choice([1, 2, 10], COUNT)]), dtype=object),
            "colour": pd.Series(holes([str(v) for v in draw.choice(["red", "dark blue", "é"], COUNT)]), dtype=object),
            "when": pd.Series(holes(times), dtype=object),
            "kind": [str(v) for v in draw.choice(CLASSES, COUNT)],
        }
    )


def linear(width: int) -> onnx.ModelProto:
    """A network of one layer, ``inputs`` [N, width] -> ``logits`` [N, 2]."""
    weights = np.random.default_rng(1).normal(size=(width, 2)).astype(np.float32)
    node = helper.make_node("MatMul", ["inputs", "weights"], ["logits"])
    given = helper.make_tensor_value_info("inputs", onnx.TensorProto.FLOAT, ["N", width])
    found = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph([node], "network", [given], [found], [numpy_helper.from_array(weights, "weights")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


class Trained:
    """A source, the model of it, and what the evaluation answers."""

    def __init__(self, folder: Path, rows: Rows) -> None:
        assert rows.frame is not None
        graph = table_graph(rows.frame, reading=rows.reading)
        width = int(session(graph).get_outputs()[0].shape[1])
        model = assemble(graph, linear(width), InputSpec("table", (width,), 2), CLASSES)
        self.file = folder / "student.onnx"
        onnx.save(model, self.file)
        self.running = session(str(self.file))
        self.answers = Answers(self.running)
        self.expected = self.answers.of_feeds(rows.feed(np.arange(len(rows))))

    def agree(self, found: pd.DataFrame) -> None:
        """Whether these answers are the evaluation's."""
        names = [f"probability:{name}" for name in CLASSES]
        np.testing.assert_allclose(found[names], self.expected[names], atol=1e-6)
        assert found["label"].tolist() == self.expected["label"].tolist()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model of the raw frame, trained from a CSV."""
    folder = tmp_path_factory.mktemp("trained")
    raw_frame().to_csv(folder / "train.csv", index=False)
    options = {"label": "kind", "categories": ["zip", "code"]}
    return Trained(folder, SOURCES["table"](path=str(folder / "train.csv"), **options))


@pytest.fixture(scope="module")
def served(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same model as MLflow keeps and loads it."""
    folder = tmp_path_factory.mktemp("served")
    mlflow.pyfunc.save_model(folder / "model", **model_options(trained.file, tmp_path_factory.mktemp("code"), "table"))
    return mlflow.pyfunc.load_model(str(folder / "model"))


def spelled(cell: Any) -> Any:
    """A cell as R and Excel write it."""
    return str(cell).upper() if isinstance(cell, bool) else cell


def write_padded(frame: pd.DataFrame, path: Path) -> None:
    texts = frame.map(lambda cell: "" if pd.isna(cell) else f" {cell} ")
    texts.columns = [f" {name} " for name in texts.columns]
    texts.to_csv(path, index=False)


FILES: dict[str, Callable[[pd.DataFrame, Path], Any]] = {
    "plain.csv": lambda f, p: f.to_csv(p, index=False),
    "r.csv": lambda f, p: f.map(spelled).to_csv(p, index=False, na_rep="NA"),
    "floats.csv": lambda f, p: f.assign(code=f["code"].astype(float)).to_csv(p, index=False),
    "words.csv": lambda f, p: f.to_csv(p, index=False, na_rep="nan"),
    "padded.csv": write_padded,
    "quoted.csv": lambda f, p: f.to_csv(p, index=False, quoting=1),
    "dos.csv": lambda f, p: f.to_csv(p, index=False, lineterminator="\r\n", encoding="utf-8-sig"),
    "utf16.csv": lambda f, p: f.to_csv(p, index=False, encoding="utf-16"),
    "west.csv": lambda f, p: f.to_csv(p, index=False, encoding="cp1252"),
    "packed.csv.gz": lambda f, p: f.to_csv(p, index=False),
    "packed.csv.zip": lambda f, p: f.to_csv(p, index=False),
    "tabs.tsv": lambda f, p: f.to_csv(p, index=False, sep="\t"),
    "order.csv": lambda f, p: f[f.columns[::-1]].to_csv(p, index=False),
    "lines.jsonl": lambda f, p: p.write_text(f.to_json(orient="records", lines=True, date_format="iso")),
    "typed.parquet": lambda f, p: f.infer_objects().to_parquet(p),
    "nullable.parquet": lambda f, p: f.convert_dtypes().to_parquet(p),
    "indexed.parquet": lambda f, p: f.infer_objects().set_index(np.arange(7, 7 + len(f))).to_parquet(p),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("batch", [7, 10_000])
def test_files(trained: Trained, tmp_path: Path, name: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """property: `predict` answers a file of any kind as the evaluation did; the label may still be inside."""
    monkeypatch.setattr("distillery.prediction.predict_table.BATCH", batch)
    FILES[name](raw_frame(), tmp_path / name)
    trained.agree(pd.concat(predict_file(trained.running, tmp_path / name)))


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.map(lambda cell: cell if cell is None or pd.isna(cell) else str(cell))


FRAMES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "objects": lambda f: f,
    "inferred": lambda f: f.infer_objects(),
    "nullable": lambda f: f.convert_dtypes(),
    "arrow": lambda f: f.convert_dtypes(dtype_backend="pyarrow"),
    "text": as_text,
    "strings": lambda f: as_text(f).astype("string"),
    "categories": lambda f: f.drop(columns="when").infer_objects().astype("category").assign(when=f["when"]),
    "small numbers": lambda f: f.assign(count=f["count"].astype(np.int8), code=f["code"].astype("Int16")),
    "float codes": lambda f: f.assign(code=f["code"].astype(np.float32), count=f["count"].astype(np.float32)),
    "zero and one": lambda f: f.assign(member=f["member"].map({True: 1.0, False: 0.0})),
    "decimals": lambda f: f.assign(size=f["size"].map(lambda v: v if pd.isna(v) else Decimal(str(v)))),
    "in a zone": lambda f: f.assign(when=pd.to_datetime(f["when"]).dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")),
    "iso times": lambda f: f.assign(when=f["when"].map(lambda v: v if pd.isna(v) else v.isoformat())),
    "another index": lambda f: f.set_index(np.arange(len(f))[::-1]),
    "more columns": lambda f: f.assign(other=[[1]] * len(f)),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames(trained: Trained, served: Any, name: str) -> None:
    """property: MLflow's pyfunc answers frames of every type of column as the evaluation did."""
    trained.agree(served.predict(FRAMES[name](raw_frame())))


@pytest.fixture(scope="module")
def client(served: Any) -> TestClient:
    """MLflow's own scoring server."""
    return TestClient(scoring_server.init(served))


REQUESTS: dict[str, Callable[[pd.DataFrame], Any]] = {
    "dataframe_records": lambda f: json.loads(f.to_json(orient="records", date_format="iso")),
    "dataframe_split": lambda f: json.loads(f.to_json(orient="split", date_format="iso")),
    "instances": lambda f: json.loads(f.drop(columns="kind").to_json(orient="records", date_format="iso")),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests(trained: Trained, client: TestClient, name: str) -> None:
    """property: the HTTP server answers JSON as the evaluation did."""
    body = json.dumps({name: REQUESTS[name](raw_frame())})
    answer = client.post("/invocations", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    trained.agree(pd.DataFrame(answer.json()["predictions"]))


def test_a_request_in_csv(client: TestClient, trained: Trained) -> None:
    """contract: the server's own reading of CSV loses the zeros that codes begin with: told, never guessed."""
    body = raw_frame().to_csv(index=False)
    answer = client.post("/invocations", content=body, headers={"Content-Type": "text/csv"})
    assert answer.status_code == 400
    assert "column 'zip': expected text such as the training file holds, got the number" in answer.json()["message"]


def test_a_request_in_csv_without_codes(tmp_path: Path) -> None:
    """property: where no code begins with a zero, the server answers CSV as the evaluation did."""
    frame = raw_frame().drop(columns="zip")
    frame.to_csv(tmp_path / "train.csv", index=False)
    options = {"label": "kind", "categories": ["code"]}
    trained = Trained(tmp_path, SOURCES["table"](path=str(tmp_path / "train.csv"), **options))
    (tmp_path / "code").mkdir()
    mlflow.pyfunc.save_model(tmp_path / "model", **model_options(trained.file, tmp_path / "code", "table"))
    client = TestClient(scoring_server.init(mlflow.pyfunc.load_model(str(tmp_path / "model"))))
    answer = client.post("/invocations", content=frame.to_csv(index=False), headers={"Content-Type": "text/csv"})
    assert answer.status_code == 200, answer.text
    trained.agree(pd.DataFrame(answer.json()["predictions"]))


@pytest.mark.parametrize("seed", range(3))
def test_files_of_numbers_in_other_countries(tmp_path: Path, seed: int) -> None:
    """reference: a table in the European style, read with its separator, answers as the plain one does."""
    draw = np.random.default_rng(seed)
    plain = pd.DataFrame({"a": draw.normal(size=80).round(2), "price": draw.integers(1, 10**7, 80) / 100})
    plain["kind"] = draw.choice(CLASSES, 80)
    european = plain.assign(
        a=[f"{v:.2f}".replace(".", ",") for v in plain["a"]],
        price=[f"{v:,.2f} €".replace(",", "_").replace(".", ",").replace("_", ".") for v in plain["price"]],
    )
    plain.to_csv(tmp_path / "plain.csv", index=False)
    european.to_csv(tmp_path / "european.csv", index=False, sep=";")
    first = Trained(tmp_path, SOURCES["table"](path=str(tmp_path / "plain.csv"), label="kind"))
    second = Trained(tmp_path, SOURCES["table"](path=str(tmp_path / "european.csv"), label="kind", separator=";"))
    first.agree(second.expected)
    second.agree(pd.concat(predict_file(second.running, tmp_path / "european.csv")))
    second.agree(second.answers.of_rows(plain))


def test_markers_of_missing_cells_travel_in_the_model(tmp_path: Path) -> None:
    """property: what data.missing names is missing for whoever asks, in numbers and in text, also as a number."""
    frame = raw_frame()[["size", "colour", "kind"]]
    marked = frame.assign(size=frame["size"].fillna("?"), colour=frame["colour"].fillna("?"))
    for name, found in (("gaps", frame), ("marked", marked)):
        found.to_csv(tmp_path / f"{name}.csv", index=False)
    plain = Trained(tmp_path, SOURCES["table"](path=str(tmp_path / "gaps.csv"), label="kind"))
    options = {"label": "kind", "missing": ["?", "-999"]}
    trained = Trained(tmp_path, SOURCES["table"](path=str(tmp_path / "marked.csv"), **options))
    plain.agree(trained.expected)
    for name in ("gaps", "marked"):
        trained.agree(pd.concat(predict_file(trained.running, tmp_path / f"{name}.csv")))
    trained.agree(trained.answers.of_rows(frame.assign(size=[-999 if pd.isna(v) else v for v in frame["size"]])))
    text = io.StringIO(marked.to_csv(index=False))
    trained.agree(trained.answers.of_request(scoring_server.parse_csv_input(text, None)))
