"""Stage `data`: what lies on disk is what the source and the graph say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from tiny_chain import Chain

from distillery.config import experiment
from distillery.sources import Rows, table_feeds
from distillery.stages.data import preparation as stage
from distillery.stages.data import preprocess
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preparation import prepare, read_source
from distillery.stages.data.splits import NAMES
from distillery.store import Store

DIGITS: dict[str, Any] = {"source": "digits", "image_size": 12, "split": {"train": 60, "test": 40}}


def test_a_table_is_encoded_row_by_row(chain: Chain) -> None:
    """reference: inputs are the graph's output for every row, labels index the sorted class names."""
    running = preprocess.session(onnx.load(chain.data.file("preprocess.onnx")))
    expected = preprocess.encode(running, chain.rows.feed(np.arange(len(chain.rows))))
    assert np.array_equal(chain.dataset.inputs, expected)
    assert chain.dataset.classes == sorted(set(chain.rows.labels))
    for split in NAMES:
        rows = chain.dataset.splits[split]
        assert [chain.dataset.classes[i] for i in chain.dataset.labels(split)] == chain.rows.labels[rows].tolist()
        assert chain.data.metrics[f"rows_{split}"] == len(rows)
    assert chain.dataset.spec.shape == (8,) and chain.dataset.skipped == []


def test_preprocessing_knows_the_training_rows_alone(chain: Chain) -> None:
    """property: training features have mean 0 and variance 1; those of other rows have not."""
    train = chain.dataset.inputs[chain.dataset.splits["train"]]
    assert np.abs(train.mean(0)).max() < 1e-5 and np.abs(train.std(0) - 1).max() < 1e-5
    assert np.abs(chain.dataset.inputs[chain.dataset.splits["test"]].mean(0)).max() > 1e-3


def test_the_same_data_are_prepared_once(tree: dict[str, Any], store: Store) -> None:
    """determinism: the same rows and split are found again; another seed, another share or other rows are not."""
    first = tree["data"]

    def prepared(**changes: Any) -> tuple[str, bool]:
        data = experiment.Data(**{**first, **changes})
        handle = prepare(data, read_source(data), store)
        return handle.path, handle.cached

    path, cached = prepared()
    assert not cached and prepared() == (path, True)
    others = [prepared(split={**first["split"], "seed": 1}), prepared(random_state=4), prepared(split={"test": 100})]
    assert len({path, *(p for p, _ in others)}) == 4
    assert prepared(image_size=64) == (path, True)  # says nothing about a table


TABLE: dict[str, Any] = {"source": "table", "label": "y", "split": {"order": "hashed", "seed": 3}}


def written(frame: pd.DataFrame, folder: Path, store: Store, name: str = "rows.csv") -> Dataset:
    """The table, prepared; its rows fall by their hashes."""
    frame.to_csv(folder / name, index=False)
    data = experiment.Data(**TABLE, path=str(folder / name))
    return Dataset(prepare(data, read_source(data), store))


@pytest.fixture
def growing() -> pd.DataFrame:
    """A table to which rows will be added."""
    frame = small_frame(300)
    frame["y"] = np.where(frame["width"] + frame["pips"] > 13, "wide", "narrow")
    return frame


def test_a_digest_is_of_the_rows_and_labels_of_its_splits(growing: pd.DataFrame, tmp_path: Path, store: Store) -> None:
    """property: one more row, anywhere in the file, or one changed label, moves the digest of its own split alone."""
    before = written(growing, tmp_path, store)
    train = before.digest("train")
    assert before.digest("train", "unlabeled") == train != before.digest("train", "test") != before.digest()
    seen = set()
    for number, more in small_frame(320)[300:].assign(y="wide").iterrows():
        halves = [growing.iloc[:150], more.to_frame().T.astype(growing.dtypes), growing.iloc[150:]]
        after = written(pd.concat(halves), tmp_path, store, f"{number}.csv")
        changed = {name for name in NAMES if after.digest(name) != before.digest(name)}
        place = next(name for name in NAMES if 150 in after.splits[name])
        # What all rows have in common rests on train: its moments are in the preprocessing.
        assert changed == ({place} if place != "train" else set(NAMES))
        seen.add(place)
        for name in NAMES:
            old, new = before.splits[name], after.splits[name]
            assert np.array_equal(new[new != 150], old + (old >= 150))
    assert len(seen) > 2
    row = before.splits["test"][0]
    growing.loc[row, "y"] = "narrow" if growing.loc[row, "y"] == "wide" else "wide"
    after = written(growing, tmp_path, store, "relabelled.csv")
    assert [name for name in NAMES if after.digest(name) != before.digest(name)] == ["test"]


def test_labels_of_rows_are_their_classes(chain: Chain) -> None:
    """reference: a loop over rows of several splits; rows of test are never answered for."""
    rows = np.concatenate([chain.dataset.splits[n][:9] for n in ("val_search", "train", "val_ensemble")])
    assert [chain.dataset.classes[i] for i in chain.dataset.labels_of(rows)] == chain.rows.labels[rows].tolist()
    for place in (0, 150, 299):
        with pytest.raises(AssertionError):
            chain.dataset.labels_of(np.append(rows, chain.dataset.splits["test"][place]))


def small_frame(rows: int) -> pd.DataFrame:
    """Numbers, some of them missing, whole numbers that repeat, and categories, one of them rare."""
    generator = np.random.default_rng(8)
    frame = pd.DataFrame(
        {
            "colour": generator.choice(["red", "blue", None], rows),
            "width": generator.normal(10, 3, rows),
            "code": generator.choice(["a", "b", "c"], rows),
            "gaps": generator.exponential(2, rows),
            "pips": generator.integers(1, 7, rows),
        }
    )
    frame.loc[generator.random(rows) < 0.2, "gaps"] = np.nan
    frame.loc[5, "code"] = "rare"
    return frame


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A table of mixed columns with rows that have no label."""
    frame = small_frame(400)
    generator = np.random.default_rng(9)
    hidden = generator.random(400) < 0.2
    labels = np.where(hidden, "", generator.choice(["no", "yes"], 400))
    rows = Rows("table", labels, "mixed", unlabeled=hidden, frame=frame)
    data = experiment.Data(source="table", path="", label="", split={"val_ensemble": 40, "val_search": 40, "test": 60})
    handle = prepare(data, rows, Store(tmp_path_factory.mktemp("mixed")))
    return SimpleNamespace(frame=frame, hidden=hidden, labels=labels, handle=handle, dataset=Dataset(handle))


def test_unlabelled_rows_are_in_no_split(mixed: SimpleNamespace) -> None:
    """property: splits share out the labelled rows alone; the others have label -1, and no class of their own."""
    dataset = mixed.dataset
    assert np.array_equal(dataset.unlabeled, np.flatnonzero(mixed.hidden))
    shared = np.sort(np.concatenate([dataset.splits[n] for n in NAMES]))
    assert np.array_equal(shared, np.flatnonzero(~mixed.hidden))
    assert dataset.classes == ["no", "yes"] and dataset.spec.classes == 2
    assert set(dataset.labels_of(dataset.unlabeled)) == {-1}
    for split in NAMES:
        assert [dataset.classes[i] for i in dataset.labels(split)] == mixed.labels[dataset.splits[split]].tolist()
    assert mixed.handle.metrics["rows_unlabeled"] == mixed.hidden.sum() and mixed.handle.metrics["classes"] == 2
    running = preprocess.session(onnx.load(mixed.handle.file("preprocess.onnx")))
    feeds = table_feeds(mixed.frame)
    assert np.array_equal(dataset.inputs, preprocess.encode(running, feeds))


def test_rows_without_unlabelled_ones_have_none(chain: Chain) -> None:
    """golden: an empty list of row ids."""
    assert chain.dataset.unlabeled.tolist() == [] and chain.dataset.unlabeled.dtype.kind == "i"


def test_features_know_their_columns(mixed: SimpleNamespace) -> None:
    """reference: pandas' own median, mean, deviation and dummies of the training rows, feature by feature."""
    train = mixed.frame.iloc[mixed.dataset.splits["train"]]
    numbers = train[["width", "gaps", "pips"]].fillna(train["gaps"].median())
    texts = train[["colour", "code"]].fillna("")
    dummies = {c: pd.get_dummies(texts[c])[sorted(set(texts[c]) - {"rare"})] for c in texts}
    expected = pd.concat(
        [(numbers - numbers.mean()) / numbers.std(ddof=0), train["gaps"].isna(), dummies["colour"], dummies["code"]],
        axis=1,
    )
    dataset, pool = mixed.dataset, mixed.dataset.pool
    np.testing.assert_allclose(dataset.inputs[dataset.splits["train"]], expected.to_numpy(float), atol=1e-5)
    names = ["width", "gaps", "pips", "gaps", *["colour"] * 3, *["code"] * 3]
    kinds = [*["number"] * 3, "missing", *["category"] * 6]
    assert mixed.handle.json("features.json") == [list(pair) for pair in zip(names, kinds, strict=True)]
    assert pool.numeric.tolist() == [kind == "number" for kind in kinds]
    same = np.equal.outer(pool.columns, pool.columns)
    assert np.array_equal(same, np.equal.outer(np.array(names), np.array(names)))
    assert np.array_equal(pool.rows, dataset.splits["train"]) and pool.inputs is dataset.inputs
    share = np.array([0.0, 0.5, 0.999999])
    places = dataset.splits["train"][[0, len(train) // 2, -1]]
    assert np.array_equal(pool.partners(share), dataset.inputs[places])


def test_bin_edges_are_values_of_train(mixed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: pandas' counts of every training value of a number; with fewer edges each row counts for one.

    Marks and categories have none.
    """
    dataset = mixed.dataset
    train = pd.DataFrame(dataset.inputs[dataset.splits["train"]])
    numbers = dataset.spec.numbers
    assert [bool(n) for n in numbers] == dataset.pool.numeric.tolist()
    for feature in range(3):
        counts = train[feature].value_counts().sort_index()
        assert list(numbers[feature]) == [(float(v), int(c)) for v, c in counts.items()]
    assert len(numbers[2]) == 6
    monkeypatch.setattr(stage, "MOST_BIN_EDGES", 9)
    few = stage._numbers(train.to_numpy(), [("", "number")] * 3 + [("", "category")] * 7)
    for feature in range(3):
        values, mass = np.array(few[feature]).T
        assert len(values) == (6 if feature == 2 else 9) and (np.diff(values) > 0).all()
        assert set(values) <= set(train[feature].astype(float))
        assert values[0] == train[feature].min() and values[-1] == train[feature].max()
        edges = np.append(values, np.inf)
        assert mass.tolist() == np.histogram(train[feature], edges)[0].tolist()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The digits as a finished data stage."""
    data = experiment.Data(**DIGITS)
    rows = read_source(data)
    handle = prepare(data, rows, Store(tmp_path_factory.mktemp("digits")))
    return SimpleNamespace(rows=rows, handle=handle, dataset=Dataset(handle))


def test_images_are_packed_as_bytes(digits: SimpleNamespace) -> None:
    """reference: uint8 inputs equal the graph's output for each image; the size is the config's."""
    inputs = digits.dataset.inputs
    assert inputs.dtype == np.uint8 and inputs.shape == (1797, 1, 12, 12)
    running = preprocess.session(onnx.load(digits.handle.file("preprocess.onnx")))
    for row in (0, 1, 1796):
        assert np.array_equal(inputs[[row]], preprocess.encode(running, digits.rows.feed(np.array([row]))))


def test_moments_are_of_the_training_pixels(digits: SimpleNamespace) -> None:
    """reference: mean and standard deviation by numpy."""
    pixels = digits.dataset.inputs[digits.dataset.splits["train"]].astype(np.float64)
    spec = digits.dataset.spec
    assert (spec.kind, spec.shape, spec.classes) == ("image", (1, 12, 12), 10)
    np.testing.assert_allclose([*spec.mean, *spec.std], [pixels.mean(), pixels.std()])
