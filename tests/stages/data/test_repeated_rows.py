"""Rows that stand in the data more than once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distillery.config import experiment
from distillery.errors import InputError
from distillery.sources import Rows
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preparation import prepare, read_source
from distillery.stages.data.repeated_rows import repeated
from distillery.store import Store


@pytest.mark.parametrize("order", ["stratified", "hashed"])
def test_rows_without_a_label_are_none_of_those_that_judge(tmp_path: Path, order: str) -> None:
    """contract: of a file of all rows, none that is a validation or test row is shown to the student; it is told."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"x": draw.normal(size=200), "y": draw.choice(["a", "b"], 200)})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame[["x"]].to_csv(tmp_path / "all.csv", index=False)
    options = {"path": str(tmp_path / "rows.csv"), "unlabeled_path": str(tmp_path / "all.csv"), "label": "y"}
    data = experiment.Data(source="table", split={"order": order}, **options)
    opened = Dataset(prepare(data, read_source(data), Store(tmp_path / "store")))
    shown = opened.inputs[opened.unlabeled]
    held_out = np.concatenate([opened.splits[name] for name in ("val_ensemble", "val_search", "test")])
    assert not np.isin(shown, opened.inputs[held_out]).any()
    assert len(opened.unlabeled) == len(opened.splits["train"])
    assert (
        f"{len(held_out)} rows without a label are validation or test rows as well, and were left out" in opened.notes
    )


def test_nothing_is_left_to_show(tmp_path: Path) -> None:
    """contract: where all of them are test rows, one line says so."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"x": draw.normal(size=60), "y": ["a", "b"] * 30})
    frame.to_csv(tmp_path / "train.csv", index=False)
    test = frame.assign(x=frame["x"] + 100)
    test.to_csv(tmp_path / "test.csv", index=False)
    test[["x"]].to_csv(tmp_path / "all.csv", index=False)
    paths = {"path": "train.csv", "test_path": "test.csv", "unlabeled_path": "all.csv"}
    data = experiment.Data(source="table", label="y", **{k: str(tmp_path / v) for k, v in paths.items()})
    with pytest.raises(InputError, match="all 60 rows without a label are validation or test rows"):
        prepare(data, read_source(data), Store(tmp_path / "store"))


def test_repeated_rows_are_told() -> None:
    """golden: the same content in two classes, and in train and in another split."""
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 7.0, 8.0]})
    labels = np.array([0, 1, 0, 1, 0, 0, 1, 0])
    splits = {"train": [0, 1, 2], "val_ensemble": [3], "val_search": [4, 6], "test": [5, 7]}
    rows = Rows("table", labels.astype(str), "digest", frame=frame)
    assert repeated(rows, labels, {name: np.array(ids) for name, ids in splits.items()}) == [
        "2 rows have the same content as a row of another class, for instance row 2 and row 6",
        "the same content is in train: 1 of 2 val_search rows, 1 of 2 test rows, for instance row 1 and row 5",
    ]
