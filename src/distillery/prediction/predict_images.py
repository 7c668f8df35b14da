"""Image files through an exported student, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pandas as pd

from distillery.errors import InputError
from distillery.serving.answers import classes_of, probabilities
from distillery.sources.folder import read_file
from distillery.sources.images.image_tree import image_tree, shown

BATCH = 64

OnRows = Callable[[int, int | None], None]
"""(rows that are done, of how many, if that is known)."""


@dataclass
class Unread:
    """Shows what is not answered, in a line each, and counts the images that cannot be read.

    Not logged: Prefect's log may go to standard output, where the answers are.
    """

    show: Callable[[str], object]
    count: int = 0

    def add(self, problem: str) -> None:
        """Takes why an image cannot be read."""
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
    unread: Unread | None = None,
) -> Iterator[pd.DataFrame]:
    """Batches of a row per image: ``file``, ``label``, a probability per class, and ``error``.

    `error` is empty. An image of a folder that cannot be read has its error there, no label and no probabilities.

    Args:
        running: A model of images.
        file: An image, or a folder with images at any depth.
        on_rows: Told after every batch.
        unread: Told of every image of a folder that cannot be read, and of files that are no images.

    Raises:
        InputError: A single image cannot be read, or a folder holds none.
    """
    files = _files_below(file, unread) if file.is_dir() else [file]
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
                if unread is not None:
                    unread.add(errors[row])
            else:
                probs[row] = probabilities(running, {"image": pixels[None]})[0]
                labels[row] = classes[int(probs[row].argmax())]

        answers = pd.DataFrame({"file": [shown(image) for image in batch], "label": labels})
        yield pd.concat([answers, pd.DataFrame(probs, columns=columns)], axis=1).assign(error=errors)
        if on_rows is not None:
            on_rows(start + len(batch), len(files))


def _files_below(folder: Path, unread: Unread | None) -> list[Path]:
    tree = image_tree(folder)
    if not tree.images:
        raise InputError(f"predict: expected images in {str(folder)!r}, got none")
    if unread is not None:
        for note in tree.notes():
            unread.show(note)
    return tree.images
