"""Image files through an exported student, one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pandas as pd

from distillery.data.folder import read_file
from distillery.data.image_tree import image_tree, shown
from distillery.errors import InputError
from distillery.serving.answers import classes_of, probabilities

BATCH = 64

log = logging.getLogger(__name__)

OnRows = Callable[[int, int | None], None]
"""(rows that are done, of how many, if that is known)."""

OnProblem = Callable[[str], None]
"""Why an image cannot be read, with its name."""


@dataclass
class Unread:
    """Shows every image that cannot be read, and counts them."""

    show: Callable[[str], object]
    count: int = 0

    def __call__(self, problem: str) -> None:
        """Takes one; see `OnProblem`."""
        self.count += 1
        self.show(problem)

    def check(self) -> None:
        """To be called when the answers are written.

        Raises:
            InputError: There was such an image.
        """
        if self.count:
            raise InputError(
                f"predict: cannot read {self.count} of the images, see above; "
                "all others are answered, and theirs have an error in place of a label"
            )


def predict_images(
    running: ort.InferenceSession,
    file: Path,
    on_rows: OnRows | None = None,
    on_problem: OnProblem | None = None,
) -> Iterator[pd.DataFrame]:
    """Batches of a row per image: ``file``, ``label``, a probability per class, and ``error``.

    `error` is empty. An image of a folder that cannot be read has its error there, no label and no probabilities.

    Args:
        running: A model of images.
        file: An image, or a folder with images at any depth.
        on_rows: Told after every batch.
        on_problem: Told of every image of a folder that cannot be read.

    Raises:
        InputError: A single image cannot be read, or a folder holds none.
    """
    files = _files_below(file) if file.is_dir() else [file]
    gray = running.get_inputs()[0].shape[-1] == 1
    classes = classes_of(running)
    columns = [f"probability:{name}" for name in classes]

    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        labels = [""] * len(batch)
        probs = np.full((len(batch), len(classes)), np.nan, np.float32)
        errors = [""] * len(batch)

        for row, image in enumerate(batch):
            try:
                pixels = read_file(image, gray)
            except InputError as error:
                if image == file:
                    raise InputError(f"predict: {error}") from error
                errors[row] = str(error)
                if on_problem is not None:
                    on_problem(errors[row])
            else:
                probs[row] = probabilities(running, {"image": pixels[None]})[0]
                labels[row] = classes[int(probs[row].argmax())]

        answers = pd.DataFrame({"file": [shown(image) for image in batch], "label": labels})
        yield pd.concat([answers, pd.DataFrame(probs, columns=columns)], axis=1).assign(error=errors)
        if on_rows is not None:
            on_rows(start + len(batch), len(files))


def _files_below(folder: Path) -> list[Path]:
    tree = image_tree(folder)
    if not tree.images:
        raise InputError(f"predict: expected images in {str(folder)!r}, got none")
    for note in tree.notes():
        log.warning(note)
    return tree.images
