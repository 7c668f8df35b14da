"""What a user should know about the images of a folder before training: copies, and what reading changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distillery.serving.image_file import ANIMATED, DEEP, PAGES, TRANSPARENT, remarks
from distillery.sources import short_hash
from distillery.sources.images.image_tree import first_of, shown
from distillery.store.checksums import remembered

EMPTY = short_hash(b"")

CHANGES = {
    ANIMATED: "Animations, of which the first frame is read",
    PAGES: "Files of several pages, of which the first is read",
    DEEP: "Images with more than 8 bits a channel, of which the upper eight are read",
    TRANSPARENT: "Images with transparency, laid over white",
}


def equal_files(hashes: np.ndarray, labels: np.ndarray, in_test: np.ndarray, names: Sequence[str]) -> list[str]:
    """Sentences that count files with equal bytes: under two classes, in train and test, and within a class.

    Args:
        hashes: Of the content of each file, uint64 [N].
        labels: The class of each [N].
        in_test: Whether it is in a test split that came with the data [N].
        names: Of each, for the sentences [N].
    """
    pairs_by_kind: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for first, *others in _groups(hashes):
        for other in others:
            if labels[first] != labels[other]:
                pairs_by_kind["under two classes"].append((first, other))
            if in_test[first] != in_test[other]:
                pairs_by_kind["in the training images and in the test split"].append((first, other))
            elif labels[first] == labels[other]:
                pairs_by_kind["of one class"].append((first, other))

    sentences = []
    for kind, pairs in pairs_by_kind.items():
        pair = " and ".join(repr(names[row]) for row in pairs[0])
        advice = ""
        if kind == "of one class" and not in_test.any():
            advice = " Without data.split.order: hashed, they may come into different splits."
        sentences.append(f"Equal files {kind}: {len(pairs)}, the first of them {pair}.{advice}")
    return sentences


def changed_by_reading(files: Sequence[Path], root: Path) -> list[str]:
    """Sentences that name the files of which something is left out or changed when they are read.

    The header of every file is read, but for those that have stayed as they were; see `checksums`.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for file in files:
        for remark in remembered(file, lambda path: sorted(remarks(path))):
            names[remark].append(shown(file, root))
    return [f"{sentence}: {first_of(names[remark])}." for remark, sentence in CHANGES.items() if remark in names]


def _groups(hashes: np.ndarray) -> list[list[int]]:
    """The rows of every content that more than one row has, ascending; files without content are damaged, not equal."""
    _, content, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    repeated = (counts[content] > 1) & (hashes != EMPTY)
    groups: dict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(repeated):
        groups[int(content[row])].append(int(row))
    return list(groups.values())
