"""The files of a registered model: the student, and the code that reads raw rows, under a name of its version."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from distillery import serving

ENTRY = Path(__file__).with_name("served_model.py")


@dataclass(frozen=True)
class ModelFiles:
    """What MLflow keeps of a model besides the student.

    Attributes:
        entry: The file that MLflow runs.
        package: The name below which the reading code is imported.
        code: The folder of that package.
    """

    entry: Path
    package: str
    code: Path


def gather(folder: Path) -> ModelFiles:
    """A copy of the reading code in a folder. Two versions of it have two names, so that a process may load both."""
    sources = sorted(Path(serving.__file__).parent.glob("*.py"))
    state = hashlib.blake2b(digest_size=5)
    for source in sources:
        state.update(source.read_bytes())
    package = f"distillery_served_{state.hexdigest()}"
    code = folder / package
    code.mkdir()
    for source in sources:
        shutil.copy(source, code / source.name)
    return ModelFiles(ENTRY, package, code)
