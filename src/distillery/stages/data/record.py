"""``dataset.json``: what every model of an experiment has to know of its data."""

from __future__ import annotations

from typing import ClassVar, Literal

from distillery.models import InputSpec
from distillery.store.record import Record


class DatasetRecord(Record):
    """``dataset.json``.

    Attributes:
        classes: Names, in the order of the logits' columns.
        spec: What a model is fed.
        skipped: Names of rows that could not be read.
        notes: A sentence for each thing that was left out, rewritten or looks wrong in the data.
        digests: Of the rows and labels of each split, and of what all rows have in ``common``.
    """

    FILE: ClassVar[str] = "dataset.json"

    schema_version: Literal[1] = 1
    classes: list[str]
    spec: InputSpec
    skipped: list[str]
    notes: list[str]
    digests: dict[str, str]
