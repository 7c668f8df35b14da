"""Image files through an exported model: every image has its row, also one that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from distillery.errors import InputError
from distillery.models import InputSpec
from distillery.prediction import predict_images
from distillery.prediction.predict_images import Unread
from distillery.prediction.predict_table import predict_file, write
from distillery.stages.data.preprocess import image_graph, session
from distillery.stages.export.onnx_model import assemble, network_graph, probabilities

GENERATOR = np.random.default_rng(0)
PROBABILITIES = ["probability:cat", "probability:dog"]


@pytest.fixture(scope="module")
def model() -> ort.InferenceSession:
    """An untrained network of gray images of any size."""
    torch.manual_seed(0)
    spec = InputSpec("image", (1, 8, 8), 2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    return session(assemble(image_graph(1, 8, "crop"), network_graph(network, spec), spec, ["cat", "dog"]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images at several depths, among other files."""
    root = tmp_path / "x"
    pixels = {"b/1.png": (10, 12), "a.png": (9, 9), "c.jpg": (8, 8, 3), "other/d.png": (7, 7)}
    for name, shape in pixels.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(GENERATOR.integers(0, 256, shape, np.uint8)).save(root / name)
    (root / "other").rename(tmp_path / "else")
    (root / "b" / "linked").symlink_to(tmp_path / "else")
    (root / "._a.png").write_text("no image")
    (root / "notes.txt").write_text("no image")
    return root


@pytest.mark.parametrize("batch", [1, 64])
def test_images_are_answered_one_by_one(
    model: ort.InferenceSession,
    folder: Path,
    batch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """reference: the model fed with the pixels; files below the folder in order, links followed, others named."""
    monkeypatch.setattr(predict_images, "BATCH", batch)
    told: list[tuple[int, int | None]] = []
    lines: list[str] = []
    found = pd.concat(predict_file(model, folder, (), lambda *rows: told.append(rows), Unread(lines.append)))
    assert list(found.columns) == ["file", "label", *PROBABILITIES, "error"]
    assert [str(Path(f).relative_to(folder)) for f in found["file"]] == [
        "a.png",
        "b/1.png",
        "b/linked/d.png",
        "c.jpg",
    ]
    for file, probs in zip(found["file"], found[PROBABILITIES].to_numpy(), strict=True):
        gray = np.asarray(Image.open(file).convert("L"))[None, ..., None]
        np.testing.assert_allclose(probs, probabilities(model, {"image": gray})[0], atol=1e-6)
    assert set(found["error"]) == {""} and told[-1] == (4, 4)
    assert lines == [
        "Left out, files of kind .txt: 1 ('notes.txt').",
        "Left out, hidden or system files: 1 ('._a.png').",
    ]
    single = pd.concat(predict_file(model, folder / "a.png"))
    assert single.iloc[0].tolist() == found.iloc[0].tolist()


def test_orientation_counts_in_answers_too(model: ort.InferenceSession, tmp_path: Path) -> None:
    """property: a picture that is stored sideways has the answer of the upright one."""
    upright = Image.fromarray(GENERATOR.integers(0, 256, (8, 8), np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    upright.save(tmp_path / "a.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png", exif=exif)
    found = pd.concat(predict_file(model, tmp_path))[PROBABILITIES].to_numpy()
    assert np.array_equal(found[0], found[1])


def test_a_damaged_image_has_a_row_with_its_error(model: ort.InferenceSession, folder: Path) -> None:
    """contract: all others are answered as without it; alone, it is an error."""
    before = pd.concat(predict_file(model, folder))
    damaged = folder / "b" / "0.png"
    damaged.write_bytes(b"no image")
    lines: list[str] = []
    found = pd.concat(predict_file(model, folder, unread=Unread(lines.append)))
    row = found.iloc[1]
    assert row["file"] == str(damaged) and row["label"] == "" and row[PROBABILITIES].isna().all()
    assert lines[-1] == row["error"] and row["error"].startswith(f"cannot read the image {str(damaged)!r}: it is")
    pd.testing.assert_frame_equal(found.drop(index=1).reset_index(drop=True), before)
    with pytest.raises(InputError, match=r"predict: cannot read the image '.*b/0\.png'"):
        list(predict_file(model, damaged))


def test_wrong_input_is_told(model: ort.InferenceSession, tmp_path: Path) -> None:
    """contract: a table, an empty folder, and columns to keep."""
    (tmp_path / "rows.csv").write_text("x\n1\n")
    (tmp_path / "empty").mkdir()
    for file, keep, message in (
        ("rows.csv", [], "predict: cannot read the image"),
        ("empty", [], "predict: expected images in"),
        ("empty", ["id"], "--keep names columns of a table"),
    ):
        with pytest.raises(InputError, match=message):
            list(predict_file(model, tmp_path / file, keep))


@pytest.mark.parametrize("name", ["answers.csv", "answers.parquet"])
def test_answers_are_whole_before_damaged_images_are_an_error(
    model: ort.InferenceSession, folder: Path, tmp_path: Path, name: str
) -> None:
    """contract: each damaged image is one line, its row is written like others, and the end counts them."""
    for damaged in ("0.png", "2.png"):
        (folder / damaged).write_bytes(b"no image")
    lines: list[str] = []
    unread = Unread(lines.append)
    write(predict_file(model, folder, unread=unread), tmp_path / name, lines.append)
    answers = pd.read_csv(tmp_path / name) if name.endswith("csv") else pd.read_parquet(tmp_path / name)
    assert answers["label"].replace("", None).isna().sum() == 2 and len(answers) == 6
    assert answers["error"].replace("", None).dropna().tolist() == lines[-2:]
    with pytest.raises(InputError, match="predict: cannot read 2 of the images, see above"):
        unread.check()
    Unread(lines.append).check()
