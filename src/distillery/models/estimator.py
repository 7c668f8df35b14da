"""Classifiers with scikit-learn's interface, as teachers: scikit-learn itself, xgboost, lightgbm, ..."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from distillery.errors import InputError
from distillery.models import MODELS, Estimator, InputSpec


def _find(options: dict[str, object]) -> Callable[..., Estimator]:
    module, _, name = str(options["estimator"]).rpartition(".")
    try:
        classifier: Callable[..., Estimator] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"estimator: expected the import path of a class, got {options['estimator']!r}: {error}"
        ) from error
    if not hasattr(classifier, "predict_proba") and not hasattr(classifier, "fit"):
        raise InputError(f"estimator: expected a class with fit and predict_proba, got {options['estimator']!r}")
    return classifier


@MODELS.register("sklearn", kinds=("table", "image"), network=False, check=_find)
def estimator(
    spec: InputSpec,
    *,
    estimator: str,
    params: dict[str, object] = {},  # noqa: B006 - read only, and its type is the option's type
    trusted: bool = False,
) -> Estimator:
    """An unfitted classifier, trained on the encoded rows [N, features].

    Args:
        spec: Shape of the inputs.
        estimator: Import path of the class, for instance ``sklearn.ensemble.HistGradientBoostingClassifier``.
        params: Its constructor's arguments; ``random_state`` is added where the class has one.
        trusted: Whether it may be pickled where skops cannot keep it, and its pickle opened, which can run any code.

    Raises:
        InputError: The class does not take these arguments, or gives no probabilities.
    """
    try:
        built = _find({"estimator": estimator})(**params)
    except TypeError as error:
        raise InputError(f"estimator {estimator!r}: {error}") from error
    if not hasattr(built, "predict_proba"):
        raise InputError(f"estimator {estimator!r} with {params}: expected predict_proba, got none")
    return built
