"""The rows that judge a small network."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import sem
from tiny_chain import Chain

from distillery.config.data import Data
from distillery.ops.metrics import quality, row_correct, row_nll
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preparation import prepare, read_source
from distillery.stages.distillation.calibration import temperature_of
from distillery.stages.distillation.held_out import HeldOut
from distillery.store import Store

TABLE = {
    "source": "make_classification",
    "random_state": 0,
    "rows": 200,
    "features": 5,
    "classes": 3,
    "informative": 4,
    "redundant": 0,
}


def logits_for(labels: np.ndarray, seed: int) -> np.ndarray:
    """Logits [N, 3] that are right more often than not."""
    return 2 * np.eye(3)[labels] + np.random.default_rng(seed).normal(size=(len(labels), 3))


def test_validation_rows_calibrate_and_val_search_judges(chain: Chain) -> None:
    """reference: both validation splits, no other row; figures are of the last, with scipy's standard errors."""
    data = chain.dataset
    held_out = HeldOut(data)
    expected = np.concatenate([data.splits["val_ensemble"], data.splits["val_search"]])
    assert held_out.folds == (None,)
    np.testing.assert_array_equal(held_out.rows, expected)
    np.testing.assert_array_equal(held_out.labels, data.labels_of(expected))
    assert not set(expected) & {*data.splits["test"], *data.splits["train"]}

    logits = logits_for(held_out.labels, 0)
    np.testing.assert_array_equal(held_out.gathered([logits]), logits)
    assert held_out.temperature(logits) == temperature_of(logits, held_out.labels)
    judged, labels = logits[-len(data.splits["val_search"]) :], data.labels("val_search")
    figures = held_out.figures(logits)
    assert {name: figures[name] for name in quality(judged, labels)} == quality(judged, labels)
    assert figures["nll_se"] == pytest.approx(sem(row_nll(judged, labels), ddof=0))
    assert figures["accuracy_se"] == pytest.approx(sem(row_correct(judged, labels), ddof=0))


@pytest.mark.parametrize("up_to", [0, 1000])
def test_by_folds_each_network_answers_its_own(store: Store, up_to: int) -> None:
    """reference: of three networks' logits, each row's are those of its fold; where val_search is held out, of one."""
    config = Data(**TABLE, split={"folds": 3, "search_folds_up_to": up_to})
    data = Dataset(prepare(config, read_source(config), store))
    held_out = HeldOut(data)
    logits = [logits_for(held_out.labels, seed) for seed in range(3)]
    if up_to == 0:
        assert held_out.folds == (None,)
        np.testing.assert_array_equal(held_out.rows, data.splits["val_search"])
        return
    assert held_out.folds == (0, 1, 2)
    np.testing.assert_array_equal(held_out.rows, data.splits["train"])
    assert data.folds is not None
    gathered = held_out.gathered(logits)
    for place, fold in enumerate(data.folds[data.splits["train"]]):
        np.testing.assert_array_equal(gathered[place], logits[fold][place])
    assert held_out.figures(gathered)["nll"] == pytest.approx(row_nll(gathered, held_out.labels).mean())
