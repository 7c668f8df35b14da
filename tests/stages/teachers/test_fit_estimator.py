"""Fitting estimators where rows are few."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.ensemble import HistGradientBoostingClassifier

from distillery.models import MODELS, InputSpec
from distillery.stages.teachers.fit_estimator import ROUNDS_WITHOUT_CONTROL, fit_estimator

TEMPLATE = Path(__file__).parents[3] / "configs" / "table.yaml"
MEMBERS = [m for m in yaml.safe_load(TEMPLATE.read_text())["teachers"]["members"] if m["family"] == "sklearn"]


def rows(rare: int) -> tuple[np.ndarray, np.ndarray]:
    """A hundred rows of five numbers, so many of which are of a third class."""
    generator = np.random.default_rng(0)
    return generator.normal(size=(100, 5)), np.repeat([0, 1, 2], [60, 40 - rare, rare])


@pytest.mark.parametrize("rare", [1, 2, 6])
@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member["name"])
def test_every_member_of_the_template_takes_a_rare_class(member: dict, rare: int) -> None:
    """contract: probabilities of all classes, and no warning of the library."""
    spec = InputSpec("table", (5,), 3)
    estimator = MODELS["sklearn"](spec, estimator=member["estimator"], params=member["params"])
    inputs, labels = rows(rare)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_estimator(estimator, inputs, labels, 0)
    probs = estimator.predict_proba(inputs)
    assert probs.shape == (100, 3) and np.isfinite(probs).all()


def test_boosting_ends_where_held_back_rows_say_so() -> None:
    """property: on noise long before the last round; where a class cannot be held back, in few rounds without."""
    inputs, labels = rows(6)
    params = next(m["params"] for m in MEMBERS if m["name"] == "boosted-15")
    estimator = HistGradientBoostingClassifier(**params)
    fit_estimator(estimator, inputs, labels, 0)
    assert 10 <= estimator.n_iter_ < 150 and estimator.max_iter == 600
    alone = HistGradientBoostingClassifier(**params)
    fit_estimator(alone, *rows(1), 0)
    assert alone.n_iter_ == ROUNDS_WITHOUT_CONTROL and alone.early_stopping is False


def test_the_seed_is_given_where_there_is_none() -> None:
    """contract: a seed that the config sets stays."""
    inputs, labels = rows(6)
    for own, expected in ((None, 7), (3, 3)):
        estimator = HistGradientBoostingClassifier(max_iter=2, random_state=own)
        fit_estimator(estimator, inputs, labels, 7)
        assert estimator.random_state == expected
