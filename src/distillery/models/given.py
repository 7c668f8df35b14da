"""Logits that the user has already, as a teacher: one row per row of the data, in the data's order."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from distillery.errors import InputError
from distillery.models import MODELS, GivenLogits, InputSpec


def _exists(options: dict[str, Any]) -> None:
    if not Path(options["path"]).expanduser().is_file():
        raise InputError(f"path: expected an .npz or .parquet file, got {options['path']!r}, which does not exist")


@MODELS.register("given", kinds=("table", "image"), network=False, check=_exists)
def given(spec: InputSpec, *, path: str, values: Literal["logits", "probs"] = "logits") -> GivenLogits:
    """Logits from a file: the array ``logits`` (or the only one) of an .npz, or all columns of a .parquet.

    Args:
        spec: Number of classes; the columns follow the sorted class names.
        path: The file. Rows follow the source: training file first, then the test file.
        values: Whether the file holds logits or probabilities.

    Raises:
        InputError: The file cannot be read, or has another number of classes.
    """
    file = Path(path).expanduser()
    try:
        if file.suffix == ".parquet":
            array = pd.read_parquet(file).to_numpy(np.float32)
        else:
            with np.load(file, allow_pickle=False) as arrays:
                array = np.asarray(arrays["logits" if "logits" in arrays else arrays.files[0]], np.float32)
    except Exception as error:
        raise InputError(f"given logits: cannot read {path!r}: {error}") from error
    if array.ndim != 2 or array.shape[1] != spec.classes:
        raise InputError(f"given logits {path!r}: expected [rows, {spec.classes} classes], got shape {array.shape}")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(1))[0])
        raise InputError(f"given logits {path!r}: expected finite numbers, got {array[row].tolist()} in row {row}")
    return GivenLogits(np.log(np.maximum(array, 1e-7)) if values == "probs" else array)
