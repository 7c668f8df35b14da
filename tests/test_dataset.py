"""Stage `data`: what lies on disk is what the source and the graph say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from distillery import config, preprocess
from distillery.dataset import Dataset, prepare, read_source
from distillery.splits import NAMES
from distillery.store import Store

DIGITS: dict[str, Any] = {"source": "digits", "image_size": 12, "split": {"train": 60, "test": 40}}


def test_a_table_is_encoded_row_by_row(chain: SimpleNamespace) -> None:
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


def test_preprocessing_knows_the_training_rows_alone(chain: SimpleNamespace) -> None:
    """property: training features have mean 0 and variance 1; those of other rows have not."""
    train = chain.dataset.inputs[chain.dataset.splits["train"]]
    assert np.abs(train.mean(0)).max() < 1e-5 and np.abs(train.std(0) - 1).max() < 1e-5
    assert np.abs(chain.dataset.inputs[chain.dataset.splits["test"]].mean(0)).max() > 1e-3


def test_the_same_data_are_prepared_once(tree: dict[str, Any], store: Store) -> None:
    """determinism: the same rows and split are found again; another seed, another share or other rows are not."""
    first = tree["data"]

    def prepared(**changes: Any) -> tuple[str, bool]:
        data = config.Data(**{**first, **changes})
        handle = prepare(data, read_source(data), store)
        return handle.path, handle.cached

    path, cached = prepared()
    assert not cached and prepared() == (path, True)
    others = [prepared(split={**first["split"], "seed": 1}), prepared(random_state=4), prepared(split={"test": 100})]
    assert len({path, *(p for p, _ in others)}) == 4
    assert prepared(image_size=64) == (path, True)  # says nothing about a table


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The digits as a finished data stage."""
    data = config.Data(**DIGITS)
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
