"""Raw rows through an exported student: tables by column name, images from files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pandas as pd

from distillery.data import Feeds, is_number, table_feeds
from distillery.data.folder import SUFFIXES, read_image
from distillery.errors import InputError
from distillery.export import classes_of, probabilities

BATCH = 8192


def predict_file(running: ort.InferenceSession, file: Path) -> pd.DataFrame:
    """A row per input row: ``file`` (images only), ``label`` and a probability per class.

    Raises:
        InputError: The file cannot be read, or its rows are not what the model takes.
    """
    if not file.exists():
        raise InputError(f"predict: expected a table, an image or a folder, got {str(file)!r}, which does not exist")
    wanted = {i.name: i for i in running.get_inputs()}
    names, batches = _images(running, file) if set(wanted) == {"image"} else ([], _table(wanted, file))
    classes = classes_of(running)
    probs = np.concatenate([probabilities(running, feeds) for feeds in batches])
    found = pd.DataFrame(probs, columns=[f"probability:{c}" for c in classes])
    found.insert(0, "label", np.array(classes, dtype=object)[probs.argmax(1)])
    if names:
        found.insert(0, "file", names)
    return found


def _images(running: ort.InferenceSession, file: Path) -> tuple[list[str], Iterator[Feeds]]:
    files = sorted(f for f in file.rglob("*") if f.suffix.lower() in SUFFIXES) if file.is_dir() else [file]
    if not files:
        raise InputError(f"predict: expected images in {str(file)!r}, got none")
    gray = running.get_inputs()[0].shape[-1] == 1
    return [str(f) for f in files], ({"image": read_image(f, gray)[None]} for f in files)


def _table(wanted: dict[str, object], file: Path) -> Iterator[Feeds]:
    if file.suffix not in {".csv", ".parquet", ".pq"}:
        raise InputError(f"predict: this model takes the rows of a .csv or .parquet file, got {str(file)!r}")
    try:
        frame = pd.read_csv(file, skipinitialspace=True) if file.suffix == ".csv" else pd.read_parquet(file)
    except Exception as error:
        raise InputError(f"predict: cannot read {str(file)!r}: {str(error).splitlines()[0]}") from error
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise InputError(f"predict: expected the columns {', '.join(wanted)}, got none called {', '.join(missing)}")
    if not len(frame):
        raise InputError(f"predict: expected rows in {str(file)!r}, got none")
    frame = frame[list(wanted)].copy()
    for name, entry in wanted.items():
        number = getattr(entry, "type", "") == "tensor(double)"
        if number and not is_number(frame[name]):
            bad = frame[name][pd.to_numeric(frame[name], errors="coerce").isna() & frame[name].notna()]
            if len(bad):
                raise InputError(
                    f"predict: column {name!r}: expected numbers, got {bad.iloc[0]!r} in row {bad.index[0] + 1}"
                )
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
        elif not number:
            frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
    return (table_feeds(frame.iloc[start : start + BATCH]) for start in range(0, len(frame), BATCH))
