"""Rows that stand in the data more than once: a student must not be taught on what it is judged on."""

from __future__ import annotations

import numpy as np

from distillery.errors import InputError
from distillery.sources import Rows

UNSEEN = ("val_ensemble", "val_search", "test")


def unseen(rows: Rows, splits: dict[str, np.ndarray]) -> np.ndarray:
    """Ids of the rows without a label whose content is in no validation or test row, ascending.

    Raises:
        InputError: None is left.
    """
    assert rows.unlabeled is not None
    contents = rows.contents()
    ids = np.flatnonzero(rows.unlabeled)
    held_out = np.concatenate([splits[name] for name in UNSEEN if name in splits])
    kept = ids[~np.isin(contents[ids], contents[held_out])]
    if not len(kept):
        raise InputError(
            f"data.unlabeled_path: all {len(ids)} rows without a label are validation or test rows as well: "
            "expected others"
        )
    return kept


def repeated(rows: Rows, labels: np.ndarray, splits: dict[str, np.ndarray]) -> list[str]:
    """A sentence for each way in which the same content is there more than once.

    Args:
        rows: The source.
        labels: Class ids [N]; -1 for rows without a label.
        splits: Row ids of each split.
    """
    if rows.frame is None:
        return []  # a source of images speaks of its files itself
    contents = rows.contents()
    held_out = [name for name in UNSEEN if name in splits]
    known = np.concatenate([splits[name] for name in ("train", *held_out)])
    notes = []
    pairs = np.unique(np.stack([contents[known], labels[known].astype(np.uint64)], axis=1), axis=0)
    several = np.unique(pairs[:, 0], return_counts=True)
    doubtful = several[0][several[1] > 1]
    if len(doubtful):
        count = int(np.isin(contents[known], doubtful).sum())
        notes.append(
            f"{count} rows have the same content as a row of another class{_example(rows, contents, doubtful)}"
        )
    seen = {name: np.isin(contents[splits[name]], contents[splits["train"]]) for name in held_out}
    counts = [f"{int(twice.sum())} of {len(twice)} {name} rows" for name, twice in seen.items() if twice.any()]
    if counts:
        found = np.concatenate([contents[splits[name]][twice] for name, twice in seen.items()])
        notes.append(f"the same content is in train: {', '.join(counts)}{_example(rows, contents, found)}")
    if rows.unlabeled is not None:
        count = int(rows.unlabeled.sum()) - len(splits["unlabeled"])
        if count:
            notes.append(f"{count} rows without a label are validation or test rows as well, and were left out")
    return notes


def _example(rows: Rows, contents: np.ndarray, found: np.ndarray) -> str:
    """The first two places of one of them."""
    places = np.flatnonzero(contents == found[0])[:2]
    names = [rows.names[place] if rows.names else f"row {place + 1}" for place in places]
    return f", for instance {' and '.join(names)}"
