"""What MLflow keeps of a registered model: the student, and the code that reads raw rows."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TypedDict

import numpy as np
import onnxruntime as ort
import pandas as pd
import PIL

from distillery import serving

ENTRY = Path(__file__).with_name("served_model.py")


class ModelOptions(TypedDict):
    """Some options of MLflow's ``pyfunc.log_model`` and ``save_model``."""

    python_model: str
    model_config: dict[str, str]
    code_paths: list[str]
    artifacts: dict[str, str]
    pip_requirements: list[str]


def model_options(student: Path, folder: Path, kind: str) -> ModelOptions:
    """The options that make a model of an exported student.

    Args:
        student: The exported student.
        folder: An empty one, for copies until MLflow has taken them.
        kind: ``table`` or ``image``.
    """
    code = _copy_reader(folder)
    needs = [f"onnxruntime=={ort.__version__}", f"numpy=={np.__version__}", f"pandas=={pd.__version__}"]
    if kind == "image":
        needs.append(f"pillow=={PIL.__version__}")
    return {
        "python_model": str(ENTRY),
        "model_config": {"package": code.name},
        "code_paths": [str(code)],
        "artifacts": {"student": str(student)},
        "pip_requirements": needs,
    }


def _copy_reader(folder: Path) -> Path:
    """The reading code, under a name of its version: a process may load models of two versions."""
    sources = sorted(Path(serving.__file__).parent.glob("*.py"))
    state = hashlib.blake2b(digest_size=5)
    for source in sources:
        state.update(source.read_bytes())
    code = folder / f"distillery_served_{state.hexdigest()}"
    code.mkdir()
    for source in sources:
        shutil.copy(source, code / source.name)
    return code
