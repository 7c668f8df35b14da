"""Stage `answers`: what a fitted classifier from outside says about every raw row of a source. N rows, C classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd

from distillery.config.experiment import Teacher
from distillery.errors import InputError, first_line
from distillery.models import MODELS
from distillery.models.given import PREFIX, check_unnamed, names_of, places_of
from distillery.sources import Rows
from distillery.store import Handle, Store, checksum

VERSION = 2
Predict = Callable[[Any], Any]
"""Raw rows -> a probability for each class: a table's frame, or ``{"image": uint8 [n, H, W, channels]}``."""


def is_outside(member: Teacher) -> bool:
    """Whether a teacher is a fitted classifier that takes raw rows."""
    return bool(MODELS.traits(member.family).get("outside"))


def ask(name: str, identity: Any, predict: Predict, rows: Rows, classes: list[str], store: Store) -> Handle:
    """``answers.npz``: the probabilities float32 [N, C] of all rows, and the names of the classes.

    Args:
        name: Of the teacher.
        identity: What tells its version from others.
        predict: The classifier.
        rows: The source.
        classes: In the order of the answers.
        store: Where.

    Raises:
        InputError: It does not answer with a probability for each class.
    """

    def build(work: Path) -> dict[str, Any]:
        asked = rows.batches(np.arange(len(rows)), 65536)
        found = [_probabilities(predict(_raw(rows, ids)), len(ids), classes, name) for ids in asked]
        np.savez(work / "answers.npz", logits=np.concatenate(found).astype(np.float32), classes=np.array(classes))
        return {}

    return store.stage("answers", name, [VERSION, identity, rows.digest, classes], build)


def as_given(member: Teacher, answers: Handle) -> Teacher:
    """The teacher whose logits are these answers."""
    kept = {"name": member.name, "copies": member.copies, "family": "given", "values": "probs"}
    return Teacher(**kept, path=str(answers.file("answers.npz")))


def open_pickle(member: Teacher) -> tuple[Any, Predict]:
    """(what identifies it, the classifier) of a teacher of family ``pickle``.

    Raises:
        InputError: The file cannot be opened, or holds no classifier.
    """
    path = Path(member.options["path"]).expanduser()
    try:
        model = joblib.load(path)
    except Exception as error:
        first = first_line(error)
        raise InputError(
            f"teacher {member.name!r}: cannot open {str(path)!r}: {type(error).__name__}: {first}"
        ) from error
    if not hasattr(model, "predict_proba") or not hasattr(model, "classes_"):
        got = type(model).__name__
        raise InputError(f"teacher {member.name!r}: expected a fitted classifier with predict_proba, got a {got}")

    def predict(raw: Any) -> pd.DataFrame:
        return pd.DataFrame(model.predict_proba(raw), columns=[f"{PREFIX}{c}" for c in model.classes_])

    return checksum(path), predict


def _raw(rows: Rows, ids: np.ndarray) -> Any:
    return rows.as_stored.iloc[ids] if rows.frame is not None else rows.feed(ids)


def _probabilities(answer: Any, count: int, classes: Sequence[str], name: str) -> np.ndarray:
    """Probabilities [n, C] of an answer, or its entry ``probabilities``: by the columns' names, or in sorted order."""
    if isinstance(answer, dict) and "probabilities" in answer:
        answer = answer["probabilities"]
    try:
        places = places_of(classes, names_of(answer)) if isinstance(answer, pd.DataFrame) else None
        if places is None:
            check_unnamed(classes, f"answer with a DataFrame whose columns are {PREFIX}<class>")
        else:
            answer = answer.iloc[:, places]
    except InputError as error:
        raise InputError(f"teacher {name!r}: {error}") from error
    found = np.asarray(answer)
    if found.shape != (count, len(classes)) or found.dtype.kind not in "fiu":
        raise InputError(
            f"teacher {name!r}: expected a probability for each of {len(classes)} classes, shape "
            f"{(count, len(classes))}, got {found.dtype} of shape {found.shape}"
        )
    if not (found >= 0).all() or not np.allclose(found.sum(1), 1, atol=1e-3):
        raise InputError(f"teacher {name!r}: expected probabilities that sum to 1, got {found[0].tolist()}")
    return found
