"""Raw rows of files through an exported model: every way of reading gives the same answers, wrong rows are named."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from distillery.errors import InputError
from distillery.models import InputSpec
from distillery.prediction import predict_table
from distillery.prediction.predict_table import predict_file, write
from distillery.serving.answers import probabilities
from distillery.serving.reading import Reading, table_feeds
from distillery.sources import SOURCES, Rows
from distillery.stages.data.preprocess import image_graph, session, table_graph
from distillery.stages.export.onnx_model import assemble, network_graph
from distillery.stages.promotion.judgement import refuses

GENERATOR = np.random.default_rng(0)
ROWS = pd.DataFrame(
    {
        "x": GENERATOR.normal(size=25),
        "code": np.array(["007", "12", "colour"])[GENERATOR.integers(0, 3, 25)],
        "flag": GENERATOR.random(25) < 0.5,
    }
)
NUMBERS = ROWS[["x"]].assign(y=GENERATOR.integers(0, 9, 25))


def assembled(graph: onnx.ModelProto, network: nn.Module, spec: InputSpec, classes: list[str]) -> onnx.ModelProto:
    """A whole model around a network."""
    return assemble(graph, network_graph(network, spec), spec, classes)


def table_model(frame: pd.DataFrame, reading: Reading | None = None) -> ort.InferenceSession:
    """An untrained network behind the preprocessing of a table."""
    often = frame.loc[frame.index.repeat(10)]  # often enough to be no rare category
    graph = table_graph(often, reading=reading or Reading.of_frame(frame))
    width = session(graph).run(None, table_feeds(frame))[0].shape[1]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(width, 5), nn.ReLU(), nn.Linear(5, 2))
    return session(assembled(graph, network, InputSpec("table", (width,), 2), ["no", "yes"]))


@pytest.fixture(scope="module")
def mixed() -> ort.InferenceSession:
    """A model of numbers, text and truth values."""
    return table_model(ROWS)


@pytest.fixture(scope="module")
def images() -> ort.InferenceSession:
    """A model of gray images of any size."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    return session(assembled(image_graph(1, 8, "crop"), network, InputSpec("image", (1, 8, 8), 2), ["cat", "dog"]))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("batch", [4, 1000])
def test_a_table_is_answered_row_by_row(
    mixed: ort.InferenceSession, tmp_path: Path, suffix: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """reference: the model fed with the whole frame; in any batches, the columns in any order, an id handed through."""
    monkeypatch.setattr(predict_table, "BATCH", batch)
    file, told = tmp_path / f"rows{suffix}", []
    frame = ROWS.assign(id=[f"row {n}" for n in range(25)])[["flag", "id", "x", "code"]]
    frame.to_csv(file, index=False) if suffix == ".csv" else frame.to_parquet(file)
    found = pd.concat(predict_file(mixed, file, ["id"], lambda *told_now: told.append(told_now)))
    assert list(found.columns) == ["id", "label", "probability:no", "probability:yes"]
    expected = probabilities(mixed, table_feeds(ROWS))
    np.testing.assert_allclose(found[["probability:no", "probability:yes"]], expected, atol=1e-6)
    assert found["id"].tolist() == frame["id"].tolist()
    assert found["label"].tolist() == [["no", "yes"][i] for i in expected.argmax(1)]
    assert told[-1] == (25, 25 if suffix == ".parquet" else None) and len(told) == -(-25 // batch)


def test_numbers_alone_are_answered_too(tmp_path: Path) -> None:
    """reference: as above, for the model that takes all columns at once; whole numbers and gaps count as numbers."""
    model = table_model(NUMBERS)
    frame = NUMBERS.astype({"y": float})
    frame.loc[3, "y"] = np.nan
    frame[["y", "x"]].to_csv(tmp_path / "rows.csv", index=False)
    found = pd.concat(predict_file(model, tmp_path / "rows.csv"))
    np.testing.assert_allclose(found.iloc[:, 1:], probabilities(model, table_feeds(frame)), atol=1e-6)


def test_codes_that_are_numbers_are_one_text_in_every_format(tmp_path: Path) -> None:
    """contract: 3, "3" and 3.0 (beside a gap) are one category, in training and here."""
    train = pd.DataFrame({"code": ["3", "4"] * 10, "x": 1.0})
    model = table_model(train)
    answers = []
    for number, codes in enumerate(([3, 4, 3], ["3", "4", "3"], [3.0, 4.0, None])):
        file = tmp_path / f"{number}.parquet"
        pd.DataFrame({"code": codes, "x": 1.0}).to_parquet(file)
        answers.append(pd.concat(predict_file(model, file))["probability:no"].to_numpy()[:2])
    assert np.array_equal(answers[0], answers[1]) and np.array_equal(answers[0], answers[2])
    assert answers[0][0] != answers[0][1]


TABLES: dict[str, tuple[str, str]] = {
    "missing": ("x,flag\n1,True\n", "expected the columns x, code, flag in .*, got none called code"),
    "extra": ("x,code,flag,age,name\n1,a,True,3,b\n", "columns that the model does not take: age, name; hand them"),
    "text": ("x,code,flag\n1,a,True\nlarge,b,False\n", "column 'x': expected numbers, got 'large' in row 2"),
    "no rows": ("x,code,flag\n", "expected rows in .*, got none"),
    "nothing": ("", "cannot read .*rows.csv"),
    "ragged": ("x,code,flag\n1,a,True\n1,a,True,7,8\n", "expected 3 fields as in the first line, got 5 in data row 2"),
}


@pytest.mark.parametrize("case", TABLES)
def test_wrong_tables_are_named(mixed: ort.InferenceSession, tmp_path: Path, case: str) -> None:
    """contract: one error that names the column or row."""
    text, message = TABLES[case]
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(InputError, match=f"predict: .*{message}"):
        list(predict_file(mixed, tmp_path / "rows.csv"))


def test_a_row_is_counted_from_the_start_of_the_file(
    mixed: ort.InferenceSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """contract: also in a later batch."""
    monkeypatch.setattr(predict_table, "BATCH", 4)
    (tmp_path / "rows.csv").write_text("x,code,flag\n" + "1,a,True\n" * 9 + "?,a,True\n")
    with pytest.raises(InputError, match=r"got '\?' in row 10"):
        list(predict_file(mixed, tmp_path / "rows.csv"))


def test_files_of_the_wrong_kind_are_named(
    mixed: ort.InferenceSession, images: ort.InferenceSession, tmp_path: Path
) -> None:
    """contract: an image for a table's model, nothing at all."""
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    for model, file, message in (
        (mixed, "a.png", "takes the rows of a table, such as .csv or .parquet, got"),
        (images, "gone.png", "which does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            list(predict_file(model, tmp_path / file))


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", None])
def test_batches_are_written_as_they_come(tmp_path: Path, name: str | None) -> None:
    """reference: pandas reads the whole back; one header."""
    batches = [pd.DataFrame({"label": [f"é{n}", "b"], "p": [0.25, n]}, index=[7, 8]) for n in range(3)]
    shown: list[str] = []
    out = None if name is None else tmp_path / name
    write(iter(batches), out, shown.append)
    if out is None:
        found = pd.read_csv(io.StringIO("".join(shown)))
    else:
        found = pd.read_csv(out) if out.suffix == ".csv" else pd.read_parquet(out)
    pd.testing.assert_frame_equal(found, pd.concat(batches, ignore_index=True), check_dtype=False)
    with pytest.raises(InputError, match=r"--out: expected a \.csv or \.parquet file"):
        write(iter(batches), tmp_path / "out.txt", shown.append)


def test_a_champion_is_asked_only_what_it_can_answer(mixed: ort.InferenceSession, images: ort.InferenceSession) -> None:
    """contract: other classes, other columns, other types and another kind of data are told apart; new columns not."""

    def rows(frame: pd.DataFrame | None) -> Rows:
        return Rows("table" if frame is not None else "image", np.array(["no"] * 25), "digest", frame=frame)

    classes = ["no", "yes"]
    assert refuses(mixed, rows(ROWS.assign(new=1)), classes) == ""
    assert refuses(mixed, rows(ROWS), ["no", "maybe"]) == "its classes are no, yes"
    assert refuses(mixed, rows(ROWS.drop(columns=["x", "flag"])), classes).endswith("the data lacks: x, flag")
    assert refuses(mixed, rows(ROWS.assign(x="large", code=3)), classes).endswith("spelt otherwise: x, code")
    assert refuses(mixed, rows(None), classes) == "it takes the rows of a table"
    assert refuses(images, rows(ROWS), ["cat", "dog"]) == "it takes images"
    assert refuses(images, rows(None), ["cat", "dog"]) == ""


def test_what_training_left_out_may_be_there(tmp_path: Path) -> None:
    """contract: the label, dropped columns and a stored index may be in the file, and are handed through if asked."""
    frame = NUMBERS.assign(y=["no", "yes"] * 12 + ["no"], note="n", label=range(25)).rename(columns={"y": "kind"})
    frame = frame.drop(columns="label").assign(y=NUMBERS["y"])
    frame.to_csv(tmp_path / "train.csv", index=False)
    rows = SOURCES["table"](path=str(tmp_path / "train.csv"), label="kind", drop=["note"])
    model = table_model(rows.frame, rows.reading)
    asked = frame.set_index(pd.Index(range(100, 125), name="id"))
    asked.to_parquet(tmp_path / "asked.parquet")
    found = pd.concat(predict_file(model, tmp_path / "asked.parquet", ["id", "kind"]))
    assert found["id"].tolist() == list(range(100, 125)) and found["kind"].tolist() == frame["kind"].tolist()
    expected = probabilities(model, rows.feed(np.arange(25)))
    np.testing.assert_allclose(found[["probability:no", "probability:yes"]], expected, atol=1e-6)


def test_what_is_handed_through_overwrites_no_answer(tmp_path: Path) -> None:
    """contract: kept columns that are called like an answer get another name; their cells stay as they are written."""
    model = table_model(NUMBERS)
    frame = NUMBERS.assign(label=[f"{n:03d}" for n in range(25)])
    frame["probability:no"] = "mine"
    frame.to_csv(tmp_path / "rows.csv", index=False)
    found = pd.concat(predict_file(model, tmp_path / "rows.csv", ["label", "probability:no"]))
    assert found["input:label"].tolist() == frame["label"].tolist() and set(found["label"]) <= {"no", "yes"}
    assert set(found["input:probability:no"]) == {"mine"}
    np.testing.assert_allclose(found["probability:no"], probabilities(model, table_feeds(NUMBERS))[:, 0], atol=1e-6)


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_an_answer_file_is_complete_or_not_there(tmp_path: Path, name: str) -> None:
    """contract: an error half-way leaves what was there before, and nothing else."""

    def failing() -> Iterator[pd.DataFrame]:
        yield pd.DataFrame({"label": ["a"], "p": [0.5]})
        raise InputError("row 2")

    for before in (None, b"earlier"):
        if before is not None:
            (tmp_path / name).write_bytes(before)
        with pytest.raises(InputError, match="row 2"):
            write(failing(), tmp_path / name, print)
        assert [p.name for p in tmp_path.iterdir()] == ([] if before is None else [name])
    assert (tmp_path / name).read_bytes() == b"earlier"
    with pytest.raises(InputError, match="a file in a folder that exists"):
        write(iter([]), tmp_path / "gone" / name, print)


def test_a_first_batch_without_values_says_nothing_of_the_next(tmp_path: Path) -> None:
    """reference: pandas reads the whole back: kept cells that begin with gaps."""
    batches = [pd.DataFrame({"id": pd.Series(ids, dtype=object), "p": 0.5}) for ids in ([None], ["b"])]
    write(iter(batches), tmp_path / "out.parquet", print)
    assert pd.read_parquet(tmp_path / "out.parquet")["id"].tolist() == [None, "b"]


def test_infinity_is_refused(tmp_path: Path) -> None:
    """contract: no answer is made of it."""
    (tmp_path / "rows.csv").write_text("x,y\n1,2\n1,inf\n")
    with pytest.raises(InputError, match=r"column 'y': expected finite numbers, got infinity in row 2 of"):
        list(predict_file(table_model(NUMBERS), tmp_path / "rows.csv"))
