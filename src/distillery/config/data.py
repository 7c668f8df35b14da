"""The rows of an experiment, and how they are dealt out: the `data` section of a config."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distillery.config.section import Choice, Section
from distillery.sources import SOURCES

Size = Annotated[float, Field(gt=0)]


class Split(Section):
    """Shares (below 1) or numbers of rows; train takes what is left.

    `order`: every class by its share at random; or rows as they come; or each row by a hash of its content, for data
    that grow: a row that is added moves no other into another split, equal rows stay together, and shares are met
    roughly.
    """

    order: Literal["stratified", "ordered", "hashed"] = "stratified"
    train: Size | None = None
    val_ensemble: Size = 0.1
    val_search: Size = 0.1
    test: Size = 0.2
    seed: int = 0


class Data(Choice):
    """The rows. `image_size` is the side in pixels to which images are resized.

    `scale` of a table's numbers: each column for itself, or shared by all, for columns in one unit such as pixels.
    """

    registry = SOURCES
    selector = "source"
    source: str
    image_size: int = Field(32, ge=4, le=1024)
    image_fit: Literal["crop", "squash"] = "crop"
    scale: Literal["column", "shared"] = "column"
    split: Split = Split()
