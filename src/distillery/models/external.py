"""Fitted classifiers that take raw rows, as teachers: their answers on all rows are asked for once.

Both are resolved to family `given` before they are used (`distillery.stages.teachers.external_members`).
"""

from __future__ import annotations

from pathlib import Path

from distillery.errors import InputError
from distillery.models import MODELS, GivenLogits, InputSpec


def _vouched(options: dict[str, object]) -> None:
    if not options["trusted"]:
        raise InputError(
            f"trusted: a pickle can run any code when it is opened; set trusted: true if {options['path']!r} is yours"
        )
    if not Path(str(options["path"])).expanduser().is_file():
        raise InputError(f"path: expected a pickled classifier, got {options['path']!r}, which does not exist")


@MODELS.register("pickle", kinds=("table",), network=False, outside=True, check=_vouched)
def pickled(spec: InputSpec, *, path: str, trusted: bool = False) -> GivenLogits:
    """A fitted scikit-learn classifier or pipeline that takes the raw columns.

    Args:
        spec: Of the data.
        path: Written by pickle or joblib.
        trusted: Whether the user vouches for the file.
    """
    raise AssertionError("asked for its answers before it is used")


def _address(options: dict[str, object]) -> None:
    if not str(options["model"]).startswith(("models:/", "runs:/")):
        raise InputError(f"model: expected an address such as models:/name@champion, got {options['model']!r}")


@MODELS.register("mlflow", kinds=("table", "image"), network=False, outside=True, check=_address)
def tracked(spec: InputSpec, *, model: str, trusted: bool = False) -> GivenLogits:
    """A model that MLflow keeps, that takes raw rows and answers with a probability for each class.

    Args:
        spec: Of the data.
        model: Its address, for instance ``models:/name@champion`` or ``models:/name/3``.
        trusted: Whether the user vouches for whoever may write there: the model may be of any flavour then. Otherwise
            it must hold one ONNX file, as distillery's own do, and nothing but that is opened.
    """
    raise AssertionError("asked for its answers before it is used")
