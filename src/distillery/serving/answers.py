"""Raw rows through an exported model: cells are read as in training, answers are named. N rows, C classes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort
import pandas as pd

from .cells import CellError, Column
from .reading import Feeds, Reading

try:
    # Not when it is first needed: by then a server may have removed the files of this package.
    from .images import pixels_of
except ImportError:  # no Pillow, which a table does not need
    pixels_of = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from .images import Asked

__all__ = ["Answers", "CellError", "classes_of", "probabilities", "reading_of"]

LABEL, PROBABILITY = "label", "probability:"


class Answers:
    """An exported model that takes raw rows.

    Args:
        running: The model in onnxruntime.
    """

    def __init__(self, running: ort.InferenceSession) -> None:
        self.running = running
        self.classes = classes_of(running)
        self.reading = reading_of(running)

    @classmethod
    def open(cls, file: str) -> Answers:
        """Those of an exported model in a file."""
        options = ort.SessionOptions()
        options.log_severity_level = 3
        return cls(ort.InferenceSession(file, options, providers=["CPUExecutionProvider"]))

    @property
    def is_table(self) -> bool:
        """Whether it takes the rows of a table, not images."""
        return bool(self.reading.columns)

    def of_rows(self, rows: pd.DataFrame) -> pd.DataFrame:
        """``label`` and a column ``probability:<class>`` for each class, of raw rows of a table [N].

        Raises:
            CellError: A column is missing, or a cell is not what its column takes.
        """
        return self.of_feeds(self.reading.feeds(rows), rows.index)

    def of_request(self, asked: Asked) -> pd.DataFrame | dict[str, np.ndarray]:
        """What a server answers: for a table as `of_rows`; for images ``label`` [N], ``probabilities``, ``logits``.

        Args:
            asked: A DataFrame, or what makes one; for images see `images.pixels_of`.

        Raises:
            CellError: It holds no such rows.
        """
        if self.is_table:
            return self.of_rows(_as_frame(asked, self.reading.names))
        assert pixels_of is not None, "a model of images needs Pillow"
        gray = self.running.get_inputs()[0].shape[-1] == 1
        names = [output.name for output in self.running.get_outputs()]
        batches = [self.running.run(names, {"image": pixels}) for pixels in pixels_of(asked, gray)]
        return {name: np.concatenate(parts) for name, parts in zip(names, zip(*batches, strict=True), strict=True)}

    def of_feeds(self, feeds: Feeds, index: pd.Index | None = None) -> pd.DataFrame:
        """The same for the model's own inputs."""
        predicted = probabilities(self.running, feeds)
        if not np.isfinite(predicted).all():
            raise ArithmeticError("the model answered with a probability that is not a number")
        columns = [f"{PROBABILITY}{name}" for name in self.classes]
        answers = pd.DataFrame(predicted, index, columns)
        answers.insert(0, LABEL, np.array(self.classes, dtype=object)[predicted.argmax(1)], allow_duplicates=True)
        return answers


def _as_frame(asked: Asked, names: list[str]) -> pd.DataFrame:
    if isinstance(asked, pd.DataFrame):
        return asked
    try:
        if isinstance(asked, dict) and not any(np.ndim(values) for values in asked.values()):
            return pd.DataFrame([asked])
        if isinstance(asked, dict):
            return pd.DataFrame({name: _cells(values) for name, values in asked.items()})
        if isinstance(asked, list) and asked and all(isinstance(row, dict) for row in asked):
            return pd.DataFrame(asked)
    except ValueError as error:
        raise CellError(names[0], "columns of one length", str(error)) from error
    raise CellError(names[0], "rows with the names of their columns", f"a {type(asked).__name__} without them")


def _cells(values: object) -> np.ndarray | list[object]:
    """A column, of which MLflow's server wraps each cell in an array where their types differ."""
    cells = np.asarray(values).reshape(-1)
    if cells.dtype != object:
        return cells
    return [cell.item() if isinstance(cell, np.ndarray) and cell.ndim == 0 else cell for cell in cells]


def probabilities(running: ort.InferenceSession, feeds: Feeds) -> np.ndarray:
    """Probabilities float32 [N, C] of an exported model for its own inputs."""
    names = [output.name for output in running.get_outputs()]
    if "probabilities" in names:
        return np.asarray(running.run(["probabilities"], feeds)[0])
    wanted = [name for name in names if name.startswith(PROBABILITY)]
    return np.stack(running.run(wanted, feeds), axis=1)


def classes_of(running: ort.InferenceSession) -> list[str]:
    """Class names that an exported model carries, in the order of its probabilities."""
    return list(json.loads(running.get_modelmeta().custom_metadata_map["classes"]))


def reading_of(running: ort.InferenceSession) -> Reading:
    """How an exported model reads raw rows; without columns for images."""
    found, inputs = running.get_modelmeta().custom_metadata_map, running.get_inputs()
    if found["kind"] == "image":
        return Reading(())
    if "distillery.reading" in found:
        return Reading.from_json(found["distillery.reading"])
    # Models of earlier versions say of their columns no more than whether each holds numbers.
    if "distillery.columns" in found:
        return Reading(tuple(Column(name, "number") for name in json.loads(found["distillery.columns"])))
    return Reading(tuple(Column(i.name, "number" if i.type == "tensor(double)" else "category") for i in inputs))
