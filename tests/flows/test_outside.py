"""A model that MLflow keeps, as a teacher."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from distillery.config import Teacher
from distillery.errors import InputError
from distillery.outside import is_outside
from flows.outside import ask
from flows.places import Places
from flows.tracking import connect


def test_a_registered_model_is_asked_about_every_row(
    chain: SimpleNamespace, new_home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """reference: another flavour's own probabilities, in the order of the classes; labels or no model: one error."""
    monkeypatch.setenv("DISTILLERY_HOME", str(new_home(tmp_path)))
    connect(Places.from_environment())
    frame, labels = chain.rows.frame, chain.rows.labels
    model = LogisticRegression().fit(frame, labels)
    with mlflow.start_run(experiment_id=mlflow.create_experiment("others", (tmp_path / "artifacts").as_uri())):
        for name, function in (("good", "predict_proba"), ("labels", "predict")):
            mlflow.sklearn.log_model(
                model,
                name=name,
                registered_model_name=name,
                pyfunc_predict_fn=function,
                pip_requirements=["scikit-learn"],
            )
    ctx = SimpleNamespace(store=chain.store, handles=[])
    member = Teacher(name="prod", family="mlflow", model="models:/good/1")
    assert is_outside(member)
    given = ask.fn(ctx, member, chain.rows, chain.data)
    with np.load(given.options["path"]) as arrays:
        assert np.allclose(arrays["logits"], model.predict_proba(frame), atol=1e-6)
    assert [handle.stage for handle in ctx.handles] == ["answers"]
    for address, message in (
        ("models:/labels/1", "expected a probability for each of 3 classes"),
        ("models:/gone@champion", "expected a model at 'models:/gone@champion', got: "),
    ):
        with pytest.raises(InputError, match=f"teacher 'prod': {message}"):
            ask.fn(ctx, Teacher(name="prod", family="mlflow", model=address), chain.rows, chain.data)
    with pytest.raises(ValueError, match="expected an address such as models:/name@champion, got 'good'"):
        Teacher(name="prod", family="mlflow", model="good")
