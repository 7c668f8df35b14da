"""The `data` section of a config: where rows come from, and how they are split."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distillery.config.section import Choice, Section
from distillery.sources import SOURCES

Size = Annotated[float, Field(gt=0)]


class Split(Section):
    """The sizes of the four splits: shares (below 1) or numbers of rows."""

    order: Literal["stratified", "ordered", "hashed"] = Field(
        "stratified",
        description="stratified: each class in its share, at random; ordered: rows as they come; "
        "hashed: by a hash of the row's content, so that an added row moves no other row, "
        "equal rows stay together, and shares are met roughly",
    )
    train: Size | None = Field(None, description="rows that networks are fitted on; none: all other rows")
    val_ensemble: Size = Field(0.1, description="rows that the ensemble weights are fitted on")
    folds: int | None = Field(
        None,
        ge=2,
        description="folds of train: each teacher is trained once without each fold and answers its rows; the ensemble "
        "weights are fitted on these answers, and no rows are held out as val_ensemble; none: val_ensemble is held out",
    )
    folds_up_to: int = Field(
        20_000, ge=1, description="labelled rows beside test above which val_ensemble is held out in spite of `folds`"
    )
    search_folds_up_to: int = Field(
        0,
        ge=0,
        description="with `folds` and at most so many labelled rows beside test, students, too, are trained once "
        "without each fold and judged on its rows, and no rows are held out as val_search",
    )
    val_search: Size = Field(0.1, description="rows that settings and the student are chosen on")
    test: Size = Field(0.2, description="rows that the evaluation reports and promotion decides on")
    seed: int = Field(0, description="seed of `stratified` and `hashed`")


class Data(Choice):
    """The rows. The options of the source stand beside these keys."""

    registry = SOURCES
    selector = "source"
    source: str = Field(description="name of a registered data source")
    image_size: int = Field(32, ge=4, le=1024, description="side in pixels that images are resized to")
    image_fit: Literal["crop", "squash"] = Field(
        "crop",
        description="crop: the largest centred square of an image; squash: the whole image, distorted",
    )
    scale: Literal["column", "shared"] = Field(
        "column",
        description="a table's numbers are standardised column by column, or all together where "
        "columns share a unit, such as pixels",
    )
    split: Split = Field(Split(), description="sizes of the splits")
