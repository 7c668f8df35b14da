"""Preprocessing graphs against scikit-learn and torch."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch.nn.functional import interpolate

from distillery.sources import table_feeds
from distillery.stages.data import preprocess

NUMBERS = ["a b", "inputs", "whole", "truth"]
TEXTS = ["label", "ü/ö", "rare"]


def random_frame(rows: int, seed: int) -> pd.DataFrame:
    """Numbers with gaps, whole numbers, booleans, categories with gaps and with rare ones, under odd names."""
    generator = np.random.default_rng(seed)
    column = generator.normal(3, 50, rows)
    column[generator.random(rows) < 0.2] = np.nan
    rare = np.where(generator.random(rows) < 0.9, "often", generator.choice([f"seldom {i}" for i in range(9)], rows))
    frame = {
        "a b": column,
        "label": generator.choice(["x", "y", None], rows),
        "inputs": generator.exponential(1e-3, rows),
        "ü/ö": generator.choice(["日本", "", "1.0"], rows),
        "whole": generator.integers(-5, 5, rows),
        "rare": rare,
        "truth": generator.random(rows) < 0.5,
    }
    return pd.DataFrame(frame)


def encode(train: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    """Rows through the graph fitted on `train`."""
    return preprocess.encode(preprocess.session(preprocess.table_graph(train)), table_feeds(rows))


def by_sklearn(train: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    """The same features from scikit-learn's own transformers."""
    imputer = SimpleImputer(strategy="median").fit(train[NUMBERS].astype(float))
    scaler = StandardScaler().fit(imputer.transform(train[NUMBERS].astype(float)))
    marked = [n for n in NUMBERS if train[n].isna().any()]
    parts = [scaler.transform(imputer.transform(rows[NUMBERS].astype(float))), rows[marked].isna().to_numpy()]
    for name in TEXTS:
        known, text = (frame[[name]].fillna("").to_numpy(object) for frame in (train, rows))
        encoder = OneHotEncoder(min_frequency=preprocess.RARE, handle_unknown="ignore", sparse_output=False).fit(known)
        columns = [not c.endswith("infrequent_sklearn") for c in encoder.get_feature_names_out()]
        parts.append(encoder.transform(text)[:, columns])
    return np.concatenate(parts, axis=1)


@given(st.integers(0, 10_000), st.integers(40, 200))
def test_tables_are_encoded_as_by_sklearn(seed: int, rows: int) -> None:
    """reference: SimpleImputer, StandardScaler and OneHotEncoder, on rows that hold gaps and unseen categories."""
    train, fresh = random_frame(rows, seed), random_frame(30, seed + 1)
    fresh.loc[:4, "label"] = "never seen"
    fresh.loc[5:9, "inputs"] = np.nan
    for frame in (train, fresh):
        np.testing.assert_allclose(encode(train, frame), by_sklearn(train, frame), rtol=1e-5, atol=1e-5)


@given(st.integers(0, 10_000), st.integers(40, 120))
@settings(max_examples=8)
def test_every_feature_knows_its_column(seed: int, rows: int) -> None:
    """reference: a change of one column of the raw rows changes features of that column alone; kinds by pandas.

    Numbers come first, each once, then a mark for every number with gaps, then the categories.
    """
    train = random_frame(rows, seed)
    graph = preprocess.table_graph(train)
    sources = preprocess.feature_sources(preprocess.onnx.ModelProto.FromString(graph.SerializeToString()))
    before = encode(train, train)
    assert len(sources) == before.shape[1]
    assert [c for c, kind in sources if kind == "number"] == NUMBERS
    assert [c for c, kind in sources if kind == "missing"] == [n for n in NUMBERS if train[n].isna().any()]
    assert {c for c, kind in sources if kind == "category"} <= set(TEXTS)
    for name in train.columns:
        other = train.copy()
        other[name] = np.nan if name in NUMBERS else "never seen"
        moved = np.flatnonzero((encode(train, other) != before).any(0))
        assert {sources[i][0] for i in moved} <= {name} and (len(moved) or name == "rare")
    for (_, kind), values in zip(sources, before.T, strict=True):
        assert kind == "number" or set(np.unique(values)) <= {0.0, 1.0}


def test_a_row_is_encoded_alone_as_among_others() -> None:
    """property: the batch a row travels in does not change its features, bit by bit."""
    train = random_frame(80, 1)
    alone = [encode(train, train.iloc[i : i + 1]) for i in range(20)]
    assert np.array_equal(np.concatenate(alone), encode(train, train.iloc[:20]))


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, ""])
def test_every_way_to_be_missing_is_one(missing: object) -> None:
    """property: None, NaN, NA and an empty text are the same category, known if it is frequent."""
    train = pd.DataFrame({"c": pd.Series(["x"] * 20 + [missing] * 20, dtype=object)})
    rows = pd.DataFrame({"c": pd.Series(["x", missing, "", "other"], dtype=object)})
    assert encode(train, rows).tolist() == [[0, 1], [1, 0], [1, 0], [0, 0]]


def test_columns_without_information_do_no_harm() -> None:
    """golden: what never differs in training is 0 for ever: constants, empty columns, texts all rare or all one."""
    train = pd.DataFrame(
        {"constant": [7.0] * 30, "empty": [np.nan] * 30, "all rare": [str(i) for i in range(30)], "same": ["u"] * 30}
    )
    rows = pd.DataFrame({"constant": [7.0, 9.0], "empty": [np.nan, 0.0], "all rare": ["1", "x"], "same": ["u", "v"]})
    assert encode(train, rows).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]


def images(seed: int, height: int, width: int, channels: int) -> np.ndarray:
    """Random pixels uint8 [2, H, W, channels]."""
    return np.random.default_rng(seed).integers(0, 256, (2, height, width, channels), np.uint8)


def encode_images(pixels: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Pixels through the image graph."""
    graph = preprocess.image_graph(pixels.shape[-1], size, fit)
    return preprocess.encode(preprocess.session(graph), {"image": pixels})


def by_torch(pixels: np.ndarray, size: int) -> np.ndarray:
    """Antialiased bilinear resizing by torch."""
    planes = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    return interpolate(planes, (size, size), mode="bilinear", antialias=True, align_corners=False).numpy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_images_of_the_right_size_are_kept(channels: int, fit: str) -> None:
    """reference: at equal size the pixels are the same, channels first."""
    pixels = images(0, 12, 12, channels)
    encoded = encode_images(pixels, 12, fit)
    assert encoded.dtype == np.float32
    assert np.array_equal(encoded, pixels.transpose(0, 3, 1, 2))


@given(st.integers(4, 40), st.integers(4, 40), st.integers(4, 24), st.sampled_from([1, 3]), st.integers(0, 99))
def test_images_are_resized_as_by_torch(height: int, width: int, size: int, channels: int, seed: int) -> None:
    """reference: torch's antialiased bilinear interpolation, rounded, within one level; values are whole, 0 to 255."""
    pixels = images(seed, height, width, channels)
    encoded = encode_images(pixels, size, "squash")
    assert np.abs(encoded - by_torch(pixels, size)).max() <= 1.0
    assert np.array_equal(encoded, np.round(encoded)) and encoded.min() >= 0 and encoded.max() <= 255


@pytest.mark.parametrize(("height", "width"), [(10, 17), (17, 10), (9, 10), (8, 8)])
def test_the_centred_square_is_cut_out(height: int, width: int) -> None:
    """reference: cropping is slicing the middle, then resizing it."""
    pixels, side = images(1, height, width, 3), min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[:, top : top + side, left : left + side]
    assert np.array_equal(encode_images(pixels, side, "crop"), square.transpose(0, 3, 1, 2))
    assert np.array_equal(encode_images(pixels, 6, "crop"), encode_images(square, 6, "squash"))


def test_a_shared_scale_keeps_columns_comparable() -> None:
    """reference: one mean and one deviation of all numbers, by numpy; categories are as they were."""
    train = pd.DataFrame({"a": [0.0, 2.0, 4.0], "b": [10.0, 10.0, 13.0], "c": ["u", "v", "u"]})
    graph = preprocess.session(preprocess.table_graph(train, "shared"))
    numbers = train[["a", "b"]].to_numpy()
    found = preprocess.encode(graph, table_feeds(train))
    np.testing.assert_allclose(found[:, :2], (numbers - numbers.mean()) / numbers.std(), rtol=1e-6)
    apart = preprocess.encode(preprocess.session(preprocess.table_graph(train)), table_feeds(train))
    assert np.array_equal(found[:, 2:], apart[:, 2:]) and not np.allclose(found[:, :2], apart[:, :2])
