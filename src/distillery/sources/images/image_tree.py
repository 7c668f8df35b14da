"""The image files below a folder, and what lies there besides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distillery.errors import InputError
from distillery.serving.image_file import suffixes

HIDDEN_KINDS = HIDDEN_FILES, HIDDEN_FOLDERS = "hidden or system files", "hidden or system folders"

# Made by systems and programs, in lower case; whatever begins with a dot is hidden as well.
SYSTEM_NAMES = {
    "__macosx",
    "__pycache__",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
}


@dataclass
class ImageTree:
    """What `image_tree` found.

    Attributes:
        root: The folder.
        images: Its image files at any depth, sorted by path.
        folders: Its folders at any depth, sorted by path, without hidden ones.
        left_out: Files and folders that are not used, by kind.
    """

    root: Path
    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)

    def leave_out(self, kind: str, *paths: Path) -> None:
        """Notes files or folders that are not used."""
        self.left_out.setdefault(kind, []).extend(paths)

    def notes(self) -> list[str]:
        """A sentence for each kind of file or folder that is not used."""
        sentences = []
        for kind, paths in sorted(self.left_out.items()):
            names = [shown(path, self.root) for path in sorted(paths)]
            sentences.append(f"Left out, {kind}: {first_of(names)}.")
        return sentences


def image_tree(root: Path) -> ImageTree:
    """The images, the folders and all else below a folder. Links are followed.

    Raises:
        InputError: A folder cannot be listed.
    """
    tree = ImageTree(root)
    _walk(tree, root, [_identity(root)])
    tree.images.sort()
    tree.folders.sort()
    return tree


def shown(path: Path, root: Path | None = None) -> str:
    """The path, below `root` if that is given, as text that can be written: bytes that are not UTF-8 are escaped."""
    below = path if root is None else path.relative_to(root)
    return os.fsencode(below).decode("utf-8", "backslashreplace")


def first_of(names: Sequence[str], count: int = 3) -> str:
    """``5 ('a', 'b', 'c', ...)``: how many names there are, and the first of them."""
    first = ", ".join(repr(name) for name in names[:count])
    more = ", ..." if len(names) > count else ""
    return f"{len(names)} ({first}{more})"


def _walk(tree: ImageTree, folder: Path, above: list[tuple[int, int]]) -> None:
    for entry in _entries(folder):
        path = Path(entry.path)
        is_folder, is_file = _kind(entry)
        if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
            tree.leave_out(HIDDEN_FOLDERS if is_folder else HIDDEN_FILES, path)
        elif is_folder:
            identity = _identity(path)
            if identity in above:
                tree.leave_out("links to a folder above them", path)
                continue
            tree.folders.append(path)
            _walk(tree, path, [*above, identity])
        elif not is_file:
            tree.leave_out("links to nothing" if entry.is_symlink() else "special files", path)
        elif path.suffix.lower() in suffixes():
            tree.images.append(path)
        elif path.suffix:
            tree.leave_out(f"files of kind {path.suffix.lower()}", path)
        else:
            tree.leave_out("files without a suffix", path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(f"cannot list the folder {shown(folder)!r}: {error.strerror}") from error


def _kind(entry: os.DirEntry[str]) -> tuple[bool, bool]:
    """(whether it is a folder, whether it is a file): neither for a link that cannot be followed."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError:
        return False, False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
