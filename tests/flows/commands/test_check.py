"""What `distillery check` says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distillery.flows.commands.check import found_in

ROOT = Path(__file__).parents[3]
BY_FOLDS = "rows: 240 train, 60 test; train in 5 folds, for teachers and students"
TEACHERS_ALONE = "rows: 24 val_search, 216 train, 60 test; train in 5 folds, for teachers"
HELD_OUT = "rows: 24 val_search, 24 val_ensemble, 192 train, 60 test"


@pytest.mark.parametrize(
    ("split", "line"),
    [
        ("{folds: 5, search_folds_up_to: 300, test: 0.2}", BY_FOLDS),
        ("{folds: 5, test: 0.2, val_search: 24}", TEACHERS_ALONE),
        ("{test: 0.2, val_search: 24, val_ensemble: 24}", HELD_OUT),
    ],
)
def test_each_row_is_counted_once(split: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """golden: 300 rows; with folds, train is not told again as the splits that it stands in for."""
    monkeypatch.setenv("DISTILLERY_HOME", str(tmp_path))
    generator = np.random.default_rng(0)
    rows = pd.DataFrame({"a": generator.normal(size=300), "b": generator.normal(size=300), "label": [0, 1, 2] * 100})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    overrides = [f"data.path={tmp_path / 'rows.csv'}", "data.label=label", f"data.split={split}"]
    lines = found_in(str(ROOT / "configs/table.yaml"), overrides)
    counts, *folds = lines[0].split("; ")
    expected, *expected_folds = line.split("; ")
    assert folds == expected_folds
    assert sorted(counts.removeprefix("rows: ").split(", ")) == sorted(expected.removeprefix("rows: ").split(", "))
