"""Digests that say whether two runs hold the same test rows, and whether their rows were split alike."""

from __future__ import annotations

import numpy as np

from distillery.config.data import Data
from distillery.serving.reading import Reading
from distillery.sources import Rows
from distillery.stages.data.dataset import Dataset
from distillery.store import Handle, fingerprint

PLACES = ("path", "test_path", "unlabeled_path", "root", "download", "on_error")  # options that move no row


def test_rows_digest(data: Handle, rows: Rows) -> str:
    """Digest of what the test rows hold, whatever the other rows and the preprocessing that is fitted on them."""
    if rows.kind == "image":
        return Dataset(data).digests["test"]
    contents = np.sort(rows.contents()[Dataset(data).splits["test"]])
    return fingerprint(contents.tolist())


def split_digest(data: Data, rows: Rows) -> str:
    """Digest of all that says which split a row falls into, besides the rows themselves.

    Where it is the same and the order is `hashed`, or the test rows came with the data, a row stays in its split.
    """
    kinds = None if rows.frame is None else (rows.reading or Reading.of_frame(rows.frame)).to_json()
    options = {name: value for name, value in data.options.items() if name not in PLACES}
    return fingerprint(data.source, options, kinds, data.split, rows.given_test is not None)
