"""Disturbed rows: what changes, what does not, and that holes are what missing cells are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pandas as pd
import pytest

from distillery.config import experiment
from distillery.sources import table_feeds
from distillery.stages.data import dataset, preparation, preprocess
from distillery.stages.evaluation import robustness
from distillery.store import Store

TABLE = ["noise of 0.1 sd", "noise of 0.2 sd", "5% of cells missing", "10% of cells missing"]


def opened(data: experiment.Data, folder: Path) -> SimpleNamespace:
    """Stage `data`, and the raw and encoded rows of its test split."""
    rows = preparation.read_source(data)
    found = SimpleNamespace(
        rows=rows, dataset=dataset.Dataset(preparation.prepare(data, rows, Store(folder / "store")))
    )
    found.ids = found.dataset.splits["test"]
    found.plain = np.asarray(found.dataset.inputs[found.ids])
    found.changed = robustness.disturbances(found.dataset, rows, found.ids)
    return found


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Rows with numbers, whole numbers, gaps and text."""
    folder, generator, count = tmp_path_factory.mktemp("table"), np.random.default_rng(0), 900
    frame = pd.DataFrame(
        {
            "width": generator.normal(50, 9, count),
            "gappy": np.where(generator.random(count) < 0.3, np.nan, generator.normal(size=count)),
            "whole": generator.integers(0, 40, count),
            "colour": generator.choice(["red", "blue", "green", None], count),
            "class": generator.choice(["a", "b"], count),
        }
    )
    frame.to_csv(folder / "rows.csv", index=False)
    return opened(experiment.Data(source="table", path=str(folder / "rows.csv"), label="class"), folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Small digits."""
    data = experiment.Data(source="digits", image_size=8, split={"train": 200, "test": 100})
    return opened(data, tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("kind", ["table", "images"])
def test_disturbed_rows_are_rows(kind: str, request: pytest.FixtureRequest) -> None:
    """property: shape and type of the inputs, something is changed, and the same again for the same rows."""
    found: SimpleNamespace = request.getfixturevalue(kind)
    again = robustness.disturbances(found.dataset, found.rows, found.ids)
    assert list(again) == list(found.changed) == (TABLE if kind == "table" else list(robustness.IMAGE))
    for name, rows in found.changed.items():
        assert (rows.shape, rows.dtype) == (found.plain.shape, found.plain.dtype)
        assert not np.array_equal(rows, found.plain) and np.array_equal(rows, again[name])
        assert np.isfinite(rows).all()


def test_noise_is_on_numbers_alone(table: SimpleNamespace) -> None:
    """property: numbers move by noise of that size around zero; marks of gaps and categories stay."""
    numeric = table.dataset.pool.numeric
    assert 0 < numeric.sum() < len(numeric)
    for size in (0.1, 0.2):
        moved = table.changed[f"noise of {size:g} sd"] - table.plain
        assert not moved[:, ~numeric].any()
        assert moved[:, numeric].std() == pytest.approx(size, rel=0.15)
        assert abs(moved[:, numeric].mean()) < 4 * size / moved[:, numeric].size ** 0.5


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_holes_are_missing_cells(table: SimpleNamespace, share: float) -> None:
    """reference: the table with those cells blanked by pandas, through the same preprocessing as any row."""
    frame, generator = table.rows.frame.iloc[table.ids].astype(object), np.random.default_rng(robustness.SEED)
    kinds = table.rows.frame.dtypes
    for column in frame.columns:
        gone = generator.random(len(frame)) < share
        assert 0 < gone.mean() < 3 * share
        frame.loc[gone, column] = None
    numbers = [c for c in frame.columns if pd.api.types.is_numeric_dtype(kinds[c])]
    frame[numbers] = frame[numbers].astype(float)
    graph = preprocess.session(onnx.load(table.dataset.handle.file("preprocess.onnx")))
    expected = preprocess.encode(graph, table_feeds(frame))
    np.testing.assert_array_equal(table.changed[f"{share:.0%} of cells missing"], expected)


def test_more_holes_hold_the_fewer_ones(table: SimpleNamespace) -> None:
    """property: the same draws, so what 5 % change 10 % change as well, and more."""
    few, many = (table.changed[f"{share} of cells missing"] != table.plain for share in ("5%", "10%"))
    assert (few <= many).all() and few.sum() < many.sum()


def test_images_keep_their_range(images: SimpleNamespace) -> None:
    """property: whole values from 0 to 255; noise goes both ways, dark is 0.6 of the light."""
    plain = images.plain.astype(np.int64)
    grain, dark, covered = (images.changed[name].astype(np.int64) for name in robustness.IMAGE)
    assert images.changed["40 % darker"].dtype == np.uint8
    assert np.array_equal(dark, np.rint(np.float32(0.6) * plain).astype(np.int64))
    middle = (plain > 60) & (plain < 195)
    assert (grain - plain)[middle].std() == pytest.approx(0.08 * 255, rel=0.15)
    assert abs(grain - plain).max() < 6 * 0.08 * 255 and (grain[plain == 0] > 0).any()  # nothing runs over the ends
    assert ((covered != plain).reshape(len(plain), -1).sum(1) <= 4).all()


def test_a_square_is_covered_in_every_channel() -> None:
    """property: one square of a quarter of the side in each image, grey, at different places."""
    pixels = np.zeros((50, 3, 16, 16), np.uint8)
    covered = robustness.IMAGE["a square of 1/16 covered"](pixels, np.random.default_rng(0))
    assert not pixels.any() and set(np.unique(covered)) == {0, 127}
    corners = set()
    for image in covered:
        rows, columns = np.nonzero(image[0])
        assert (np.ptp(rows), np.ptp(columns), len(rows)) == (3, 3, 16)
        assert (image == image[0]).all()
        corners.add((rows.min(), columns.min()))
    assert len(corners) > 20
