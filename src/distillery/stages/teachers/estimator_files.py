"""Files of fitted estimators: written by skops, so that opening one runs no code but that of known classes.

skops names every class in the file. Taken are classes of scikit-learn, numpy and scipy, and of the package that the
config's own estimator is from. What skops cannot keep is pickled, but only where the user vouches for the member.
"""

from __future__ import annotations

import importlib
import json
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from distillery.errors import InputError, first_line

SCHEMA = "schema.json"
FILE, PICKLE = "model.skops", "model.joblib"
BINNING = "sklearn.ensemble._hist_gradient_boosting.binning", "_BinMapper"
PACKAGES = ("sklearn", "numpy", "scipy")
ROWS_PER_CLASS = 8  # of a trial fit; some estimators split their rows by class
FEATURES = 4


def save(estimator: Any, folder: Path, *, trusted: bool) -> None:
    """Writes a fitted estimator into a folder.

    Args:
        estimator: What to keep.
        folder: Where.
        trusted: Whether it may be pickled where skops cannot keep it.

    Raises:
        InputError: skops cannot keep it, and it may not be pickled.
    """
    try:
        _write(estimator, folder / FILE)
    except InputError:
        (folder / FILE).unlink(missing_ok=True)
        if not trusted:
            raise
        joblib.dump(estimator, folder / PICKLE)


def load(folder: Path, unfitted: Any, *, trusted: bool) -> Any:
    """The fitted estimator that `save` wrote.

    Args:
        folder: Where it lies.
        unfitted: What the config describes; the file may hold classes of its package.
        trusted: Whether a pickle may be opened.

    Raises:
        InputError: The file holds something else.
    """
    if (folder / FILE).exists():
        try:
            return _read(folder / FILE, _package(unfitted))
        except InputError as error:
            raise InputError(f"{folder / FILE}: {error}") from error
    if not trusted:
        raise InputError(f"{folder}: expected {FILE}, got none; a pickle is opened only with trusted: true")
    return joblib.load(folder / PICKLE)


def size_mb(folder: Path) -> float:
    """Size of the file that `save` wrote."""
    path = folder / FILE if (folder / FILE).exists() else folder / PICKLE
    return path.stat().st_size / 1e6


def check_keeps(estimator: Any, classes: int, folder: Path) -> None:
    """Keeps and reads the estimator once, fitted on made-up rows where it can be.

    Args:
        estimator: Unfitted, and not used any more.
        classes: Number of classes.
        folder: For its file.

    Raises:
        InputError: skops cannot keep it.
    """
    if _package(estimator) == "sklearn":
        return
    labels = np.tile(np.arange(classes), ROWS_PER_CLASS)
    rows = np.random.default_rng(0).random((len(labels), FEATURES), dtype=np.float32)
    with warnings.catch_warnings(), suppress(Exception):  # it may need other rows; unfitted it shows its class at least
        warnings.simplefilter("ignore")
        estimator.fit(rows, labels)
    _write(estimator, folder / FILE)


def _renumber(path: Path) -> None:
    """Packs a file of skops anew, so that equal estimators give equal files.

    skops calls objects and arrays by their place in memory, which is another one in each run. The number of threads
    that scikit-learn's binning was fitted with belongs to the machine as well; predictions do not depend on it.
    """
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    tree = json.loads(content.pop(SCHEMA))
    numbers: dict[str, str] = {}
    renamed = _with_numbers(tree, numbers)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(SCHEMA), json.dumps(renamed), zipfile.ZIP_DEFLATED)
        for name, data in sorted((_renamed(name, numbers), data) for name, data in content.items()):
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


def _with_numbers(tree: Any, numbers: dict[str, str]) -> Any:
    """The tree with small numbers in the place of memory addresses; `numbers` grows by those that are met."""
    if isinstance(tree, list):
        return [_with_numbers(part, numbers) for part in tree]
    if not isinstance(tree, dict):
        return tree
    if (tree.get("__module__"), tree.get("__class__")) == BINNING:
        # An id of its own: Python keeps one object for each small number, so that the old id names other nodes, too.
        tree["content"]["content"]["n_threads"] |= {"content": "1", "__id__": "threads"}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if key == "__id__":
            found[key] = int(numbers.setdefault(str(value), str(len(numbers))))
        elif key == "file":
            found[key] = _renamed(value, numbers)
        else:
            found[key] = _with_numbers(value, numbers)
    return found


def _renamed(name: str, numbers: dict[str, str]) -> str:
    stem, dot, suffix = name.partition(".")
    return numbers.setdefault(stem, str(len(numbers))) + dot + suffix


def _package(estimator: Any) -> str:
    return type(estimator).__module__.partition(".")[0]


def _write(estimator: Any, path: Path) -> None:
    import skops.io  # takes seconds, and only estimators need it

    try:
        skops.io.dump(estimator, path)
        _renumber(path)
        classes = _known_classes(path, _package(estimator))
        if _package(estimator) != "sklearn":  # skops opens all of these
            skops.io.load(path, trusted=classes)
    except Exception as error:
        first = first_line(error)
        name = f"{type(estimator).__module__}.{type(estimator).__qualname__}"
        raise InputError(
            f"skops cannot keep {name}: {first}; set trusted: true for this member to have it pickled instead"
        ) from error


def _read(path: Path, package: str) -> Any:
    import skops.io

    return skops.io.load(path, trusted=_known_classes(path, package))


def _known_classes(path: Path, package: str) -> list[str]:
    """The classes that a file names beyond those that skops knows.

    Raises:
        InputError: One of them is neither of this package nor of `PACKAGES`.
    """
    import skops.io

    named: list[str] = skops.io.get_untrusted_types(file=path)
    strange = [name for name in named if not _is_class(name, (*PACKAGES, package))]
    if strange:
        allowed = ", ".join(dict.fromkeys((*PACKAGES, package)))
        raise InputError(f"expected classes of {allowed} alone, got {', '.join(strange)}")
    return named


def _is_class(name: str, packages: tuple[str, ...]) -> bool:
    """Whether a dotted name is a class of one of the packages. A function could be one that runs what it is given."""
    module, _, attribute = name.rpartition(".")
    if module.partition(".")[0] not in packages:
        return False
    try:
        return isinstance(getattr(importlib.import_module(module), attribute), type)
    except (ImportError, AttributeError):
        return False
