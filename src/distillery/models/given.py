"""Logits that the user has already, as a teacher: one row per row of the data, in the data's order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from distillery.errors import InputError
from distillery.models import MODELS, GivenLogits, InputSpec
from distillery.ops.log_probs import TEACHER_FLOOR

PREFIX = "probability:"  # that a column's name may have before the name of its class
SHOWN = 6  # classes in a message


def _exists(options: dict[str, object]) -> None:
    if not Path(str(options["path"])).expanduser().is_file():
        raise InputError(
            f"path: expected an .npz, .parquet or .csv file, got {options['path']!r}, which does not exist"
        )


@MODELS.register("given", kinds=("table", "image"), network=False, check=_exists)
def given(
    spec: InputSpec, *, path: str, values: Literal["logits", "probs"] = "logits", out_of_fold: bool = False
) -> GivenLogits:
    """Logits from a file: the array ``logits`` (or the only one) of an .npz, or all columns of a .parquet or .csv.

    Args:
        spec: Number of classes.
        path: The file. Rows follow the source: training file first, then the test file. Columns are named by the
            classes; in an .npz by an entry ``classes``. Without names they follow the sorted class names.
        values: Whether the file holds logits or probabilities.
        out_of_fold: Whether each training row was answered by a model that has not learned it.

    Raises:
        InputError: The file cannot be read, or has another number of classes.
    """
    file = Path(path).expanduser()
    try:
        array, columns = _npz(file) if file.suffix not in (".parquet", ".csv") else _table(file)
    except Exception as error:
        raise InputError(f"given logits: cannot read {path!r}: {error}") from error
    if array.ndim != 2 or array.shape[1] != spec.classes:
        raise InputError(f"given logits {path!r}: expected [rows, {spec.classes} classes], got shape {array.shape}")
    if columns and len(columns) != spec.classes:
        raise InputError(f"given logits {path!r}: expected {spec.classes} names in classes, got {len(columns)}")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(1))[0])
        raise InputError(f"given logits {path!r}: expected finite numbers, got {array[row].tolist()} in row {row}")
    return GivenLogits(np.log(np.maximum(array, TEACHER_FLOOR)) if values == "probs" else array, columns)


def _npz(file: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    with np.load(file, allow_pickle=False) as arrays:
        others = [name for name in arrays.files if name != "classes"]
        array = np.asarray(arrays["logits" if "logits" in others else others[0]], np.float32)
        names = arrays["classes"].tolist() if "classes" in arrays else []
    # a class that is a whole number is called so, whatever the type of the array
    texts = [str(int(name)) if isinstance(name, float) and name.is_integer() else str(name) for name in names]
    return array, tuple(texts)


def _table(file: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    frame = pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
    return frame.to_numpy(np.float32), names_of(frame)


def names_of(frame: pd.DataFrame) -> tuple[str, ...]:
    """The names of the columns; none where pandas has numbered them."""
    return tuple(frame.columns) if all(isinstance(name, str) for name in frame.columns) else ()


def in_class_order(given_logits: GivenLogits, classes: Sequence[str]) -> GivenLogits:
    """The logits with their columns in the order of the classes.

    Raises:
        InputError: A class has no column, or the order of columns without names is not certain.
    """
    order = places_of(classes, given_logits.columns)
    if order is None:
        check_unnamed(
            classes,
            "name the columns of a .parquet or .csv by the classes, or put their names into an .npz as `classes`",
        )
        return given_logits
    return GivenLogits(given_logits.logits[:, order], tuple(classes))


def places_of(classes: Sequence[str], columns: Sequence[str]) -> list[int] | None:
    """The place of each class among the columns; None where the columns' names have nothing to do with the classes.

    Raises:
        InputError: Some classes have a column and some have not.
    """
    names = [column.removeprefix(PREFIX) for column in columns]
    if names == list(columns) and not set(names) & set(classes):
        return None
    missing = [name for name in classes if name not in names]
    if missing:
        raise InputError(f"expected a column for every class, got none for {_listed(missing)}")
    return [names.index(name) for name in classes]


def check_unnamed(classes: Sequence[str], remedy: str) -> None:
    """Refuses columns without names where they are probably in another order than that of the classes.

    Classes are sorted as text, whole numbers by their size almost everywhere else.

    Raises:
        InputError: The two orders differ.
    """
    try:
        by_size = sorted(classes, key=float)
    except ValueError:
        return  # not numbers
    if by_size != list(classes):
        raise InputError(
            f"expected names for {len(classes)} columns: the classes are numbers, but sorted as text, "
            f"{_listed(classes)}, not {_listed(by_size)}, so that columns without names may be in either order; "
            f"{remedy}"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
