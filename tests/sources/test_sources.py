"""Data sources: what each of them promises, and what it says about wrong input."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm.data
from PIL import Image
from sklearn import datasets

from distillery.config import experiment
from distillery.errors import InputError
from distillery.sources import SOURCES, Rows, table_feeds
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preparation import prepare
from distillery.store import Store


def write_images(root: Path, parts: tuple[str, ...] = ("train", "test"), each: int = 6) -> Path:
    """Folders of small random images, two classes, half of them gray and of other sizes."""
    generator = np.random.default_rng(0)
    for part in parts:
        for name in ("cat", "dog"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(each):
                shape = (8, 9 + number, 3) if number % 2 else (7, 7)
                Image.fromarray(generator.integers(0, 256, shape, np.uint8)).save(folder / f"{number:02d}.png")
    return root


def write_table(path: Path, rows: int = 40, seed: int = 0) -> Path:
    """A table with numbers, codes, text, gaps and a text label, as CSV or Parquet."""
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "size": generator.normal(size=rows).round(3),
            "code": generator.integers(0, 3, rows),
            "colour": generator.choice(["red", "?", "blue"], rows),
            "kind": generator.choice([" yes", "no "], rows),
        }
    )
    frame.loc[3, "size"] = np.nan
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return path


EXAMPLES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "digits": lambda _: {},
    "folder": lambda tmp: {"path": str(write_images(tmp / "images"))},
    "make_classification": lambda _: {"rows": 200, "random_state": 1},
    "sklearn": lambda _: {"dataset": "wine"},
    "table": lambda tmp: {"path": str(write_table(tmp / "a.csv")), "label": "kind"},
    "timm": lambda tmp: {"name": "", "root": str(write_images(tmp / "images")), "test_split": "test"},
}


@pytest.mark.parametrize("name", SOURCES.names())
def test_every_source_keeps_the_promise(name: str, tmp_path: Path) -> None:
    """contract: fixed rows, text labels, a digest that stays, feeds of one kind; reading again gives the same."""
    options = SOURCES.check(name, EXAMPLES[name](tmp_path))
    rows, again = SOURCES[name](**options), SOURCES[name](**options)
    assert rows.kind == SOURCES.traits(name)["kind"]
    assert rows.labels.dtype.kind == "U" and rows.labels.shape == (len(rows),)
    assert rows.digest == again.digest and np.array_equal(rows.labels, again.labels)
    assert rows.given_test is None or rows.given_test.shape == (len(rows),)
    some = np.array([0, len(rows) - 1])
    for batch in rows.batches(some):
        feeds, same = rows.feed(batch), again.feed(batch)
        assert all(
            len(v) == len(batch) and np.array_equal(v, same[k], equal_nan=v.dtype.kind == "f") for k, v in feeds.items()
        )
        if rows.kind == "image":
            assert feeds["image"].dtype == np.uint8 and feeds["image"].shape[3] == rows.channels


@pytest.mark.parametrize("dataset", ["breast_cancer", "digits", "iris", "wine"])
def test_bundled_tables_are_sklearns(dataset: str) -> None:
    """reference: cells and class names equal scikit-learn's own loader."""
    rows, bunch = SOURCES["sklearn"](dataset=dataset), getattr(datasets, f"load_{dataset}")()
    assert np.array_equal(rows.frame.to_numpy(), bunch.data)
    assert rows.labels.tolist() == [str(bunch.target_names[t]) for t in bunch.target]


def test_make_classification_is_one_call_of_sklearn() -> None:
    """reference: the cells of scikit-learn's function; another seed is another digest."""
    options = {"rows": 100, "features": 6, "informative": 4, "redundant": 1, "clusters_per_class": 1}
    rows = SOURCES["make_classification"](random_state=5, **options)
    x, y = datasets.make_classification(
        100, 6, n_informative=4, n_redundant=1, n_clusters_per_class=1, flip_y=0.01, random_state=5
    )
    assert np.array_equal(rows.frame.to_numpy(), x) and rows.labels.tolist() == y.astype(str).tolist()
    assert SOURCES["make_classification"](random_state=6, **options).digest != rows.digest


def test_csv_and_parquet_are_read_alike(tmp_path: Path) -> None:
    """property: the format of a table does not change its cells; labels lose their spaces, gaps stay gaps."""
    read = SOURCES["table"]
    a, b = (read(path=str(write_table(tmp_path / f"x{s}")), label="kind") for s in (".csv", ".parquet"))
    assert set(a.labels) == set(b.labels) == {"yes", "no"}
    for name, values in table_feeds(a.frame).items():
        assert np.array_equal(values, table_feeds(b.frame)[name], equal_nan=values.dtype.kind == "f")
    assert np.flatnonzero(np.isnan(a.feed(np.arange(40))["size"])).tolist() == [3]


def test_columns_are_read_as_told(tmp_path: Path) -> None:
    """golden: dropped columns are gone, codes are text, a further spelling of missing is missing."""
    path = str(write_table(tmp_path / "x.csv"))
    rows = SOURCES["table"](path=path, label="kind", drop=["size"], categories=["code"], missing=["?"])
    feeds = rows.feed(np.arange(40))
    assert list(feeds) == ["code", "colour"]
    assert set(feeds["code"]) == {"0", "1", "2"} and set(feeds["colour"]) == {"red", "", "blue"}


def test_a_test_file_is_the_test_split(tmp_path: Path) -> None:
    """property: rows of the second file follow the first one's and are marked, whatever the order of its columns."""
    train, test = write_table(tmp_path / "a.csv"), write_table(tmp_path / "b.csv", 10, seed=1)
    pd.read_csv(test)[["kind", "colour", "code", "size"]].to_csv(test, index=False)
    rows = SOURCES["table"](path=str(train), test_path=str(test), label="kind")
    assert rows.given_test.tolist() == [False] * 40 + [True] * 10
    assert rows.frame["code"].tolist() == [*pd.read_csv(train)["code"], *pd.read_csv(test)["code"]]


TABLE_MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("", {}, r"cannot read '.*x\.csv' as a table"),
    ("size,kind\n", {}, r"expected rows in '.*x\.csv', got an empty table"),
    ("size,colour\n1,a\n", {}, "expected a column 'kind' in .*, got 'size', 'colour'"),
    ("size,colour,kinds\n1,a,b\n", {}, "expected a column 'kind' in .*, got 'kinds', 'size', 'colour'$"),
    (f"{','.join('abcdefghijkl')},kinds\n", {}, r"got 'kinds', 'a', .*'i', \.\.\. \(13 in all\)$"),
    ("size,kind\n1,a\n", {"drop": ["no"]}, "expected a column 'no'"),
    ("size,kind\n1,a\n2,\n3,b\n", {}, "got 1 missing, the first in data row 2 of"),
    ("size,kind\n1,a\n", {"test_path": "gone.csv"}, r"'gone\.csv', which does not exist"),
    ("size,kind\n1,2,3,4\n1\n1,2\n1,2,3,4,5\n", {}, r"expected 2 fields as in the first line, got 4 in data row 1"),
]


@pytest.mark.parametrize(("text", "options", "message"), TABLE_MISTAKES, ids=[m for *_, m in TABLE_MISTAKES])
def test_a_wrong_table_is_told(tmp_path: Path, text: str, options: dict[str, Any], message: str) -> None:
    """contract: what a table lacks is named in one line."""
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        SOURCES["table"](path=str(tmp_path / "x.csv"), label="kind", **options)
    assert "\n" not in str(caught.value)


def test_a_missing_label_in_the_test_file_is_found_there(tmp_path: Path) -> None:
    """contract: the row is counted in the file that it is in."""
    (tmp_path / "a.csv").write_text("size,kind\n1,a\n2,b\n")
    (tmp_path / "b.csv").write_text("size,kind\n1,a\n2,b\n3,\n")
    with pytest.raises(InputError, match=r"first in data row 3 of '.*b\.csv'"):
        SOURCES["table"](path=str(tmp_path / "a.csv"), test_path=str(tmp_path / "b.csv"), label="kind")


@pytest.mark.parametrize("gray", [False, True])
def test_a_folder_gives_its_pixels(tmp_path: Path, gray: bool) -> None:
    """reference: pixels as PIL reads them, train before test, classes by the name of their folder."""
    root = write_images(tmp_path / "x")
    rows = SOURCES["folder"](path=str(root), gray=gray)
    files = [*sorted(root.glob("train/*/*")), *sorted(root.glob("test/*/*"))]
    assert rows.labels.tolist() == [f.parent.name for f in files]
    assert rows.given_test.tolist() == [f.parts[-3] == "test" for f in files]
    for row, file in enumerate(files):
        expected = np.asarray(Image.open(file).convert("L" if gray else "RGB"))
        assert np.array_equal(rows.read(row), expected[..., None] if gray else expected)


def test_a_folder_without_parts_is_split(tmp_path: Path) -> None:
    """property: with one set of class folders there is no given test set; a changed pixel changes the digest."""
    root = write_images(tmp_path, parts=("",))
    rows = SOURCES["folder"](path=str(root))
    assert len(rows) == 12 and rows.given_test is None
    Image.new("RGB", (8, 8)).save(root / "cat" / "00.png")
    assert SOURCES["folder"](path=str(root)).digest != rows.digest


def test_folders_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    """contract: no folder, no images, and test classes that train lacks are named."""
    with pytest.raises(InputError, match="'/no/where', which does not exist"):
        SOURCES["folder"](path="/no/where")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected images in <class>/ folders"):
        SOURCES["folder"](path=str(tmp_path / "empty"))
    root = write_images(tmp_path / "x")
    (root / "test" / "dog").rename(root / "test" / "wolf")
    with pytest.raises(InputError, match="test holds classes that train lacks: wolf"):
        SOURCES["folder"](path=str(root))


def prepared(rows: Rows, store: Store) -> Dataset:
    """Images of 6 x 6 pixels, two of each class for every choice."""
    split = {"val_ensemble": 2, "val_search": 2, "test": 2}
    return Dataset(prepare(experiment.Data(source="folder", path="x", image_size=6, split=split), rows, store))


def test_a_damaged_image_stops_or_is_left_out(tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """contract: the file is named either way; left out, it is in no split and everything else is."""
    root = write_images(tmp_path / "x", parts=("",))
    damaged = root / "dog" / "01.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(InputError, match=r"dog/01\.png.*on_error"):
        prepared(SOURCES["folder"](path=str(root)), store)
    with caplog.at_level(logging.WARNING):
        dataset = prepared(SOURCES["folder"](path=str(root), on_error="skip"), store)
    assert str(damaged) in caplog.text and dataset.skipped == [str(damaged)]
    assert sorted(np.concatenate(list(dataset.splits.values())).tolist()) == [i for i in range(12) if i != 7]


def test_timm_reads_the_same_folder(tmp_path: Path) -> None:
    """reference: timm's reader and the folder source give the same pixels; an unknown dataset is told."""
    root = write_images(tmp_path / "x")
    ours, timms = SOURCES["folder"](path=str(root)), SOURCES["timm"](name="", root=str(root), test_split="test")
    assert np.array_equal(ours.given_test, timms.given_test)
    assert all(np.array_equal(ours.read(i), timms.read(i)) for i in range(len(ours)))
    assert [("cat", "dog")[int(i)] for i in timms.labels] == ours.labels.tolist()
    with pytest.raises(InputError, match="timm cannot open 'torch/nothing', split 'train'"):
        SOURCES["timm"](name="torch/nothing", root=str(root))


def test_timm_reads_files_as_the_folder_does(tmp_path: Path) -> None:
    """reference: orientation, transparency and 16 bits give the folder's pixels by timm's and torchvision's readers."""
    root = write_images(tmp_path / "x")
    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 4), np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(root / "train" / "cat" / "00.png", exif=exif)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 250).save(root / "train" / "cat" / "01.png")
    (root / "train" / "dog" / "02.png").write_bytes((root / "test" / "dog" / "02.png").read_bytes())
    ours = SOURCES["folder"](path=str(root))
    for name in ("", "torch/folder"):
        timms = SOURCES["timm"](name=name, root=str(root), test_split="test")
        assert all(np.array_equal(ours.read(i), timms.read(i)) for i in range(len(ours)))
        assert np.array_equal(ours.hashes, timms.hashes)
        assert timms.notes[-1].endswith("in the test split: 1, the first of them 'train/8' and 'test/8'.")


def test_a_damaged_image_of_timm_is_named(tmp_path: Path, store: Store) -> None:
    """contract: it stops or is left out as in a folder; timm alone would give the next image in its place."""
    root = write_images(tmp_path / "x")
    (root / "train" / "dog" / "01.png").write_bytes(b"no image")
    options = {"name": "", "root": str(root), "train_split": "train"}
    with pytest.raises(InputError, match=r"cannot read the image 'train/7' of '': it is empty, damaged.*on_error"):
        prepared(SOURCES["timm"](**options), store)
    assert prepared(SOURCES["timm"](**options, on_error="skip"), store).skipped == ["train/7"]


def test_timm_datasets_that_cannot_be_used_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: splits of which each numbers its own classes, and streams, which have no row numbers."""
    root = write_images(tmp_path / "x")
    shutil.rmtree(root / "test" / "cat")
    with pytest.raises(InputError, match="expected the same classes in the splits train and test"):
        SOURCES["timm"](name="", root=str(root), test_split="test")
    stream = timm.data.IterableImageDataset("", reader=["a", "b"])
    monkeypatch.setattr(timm.data, "create_dataset", lambda *_, **__: stream)
    with pytest.raises(InputError, match="expected a dataset whose rows can be read by number, got the stream 'wds/x'"):
        SOURCES["timm"](name="wds/x", root=str(root))


def test_equal_rows_have_equal_hashes_wherever_they_stand() -> None:
    """property: neither other rows nor what those make of a column's type change the hash of a row; its cells do."""
    frame = pd.DataFrame({"n": [1, 2, 1], "flag": [True, False, True], "text": ["a", None, "a"]})
    first = Rows("table", np.array(list("xyx")), "", frame=frame).contents()
    assert first.dtype == np.uint64 and first[0] == first[2] != first[1]
    more = pd.DataFrame({"n": [np.nan, 2.0, 1.0], "flag": [None, False, True], "text": ["b", None, "a"]})
    more["flag"] = more["flag"].astype("boolean")
    again = Rows("table", np.array(list("xyx")), "", frame=more).contents()
    assert [int(h) for h in again[1:]] == [int(first[1]), int(first[0])]
    other = Rows("table", np.array(list("xyx")), "", frame=frame.assign(n=[1, 2, 3])).contents()
    assert first[0] == other[0] != other[2]


def test_images_are_told_apart_by_their_content(tmp_path: Path) -> None:
    """property: a copy under another name has the hash of its original; of sources without files the pixels count."""
    write_images(tmp_path, ("train",))
    file = tmp_path / "train" / "cat" / "03.png"
    (tmp_path / "train" / "dog" / "zz.png").write_bytes(file.read_bytes())
    rows = SOURCES["folder"](path=str(tmp_path))
    hashes = dict(zip(rows.names, rows.contents().tolist(), strict=True))
    assert len(set(hashes.values())) == len(hashes) - 1 == 12
    assert hashes[str(file)] == hashes[str(tmp_path / "train" / "dog" / "zz.png")]
    held = Rows("image", rows.labels, "", read=rows.read).contents()
    assert len(set(held.tolist())) == 12 and held[3] == held[-1]
