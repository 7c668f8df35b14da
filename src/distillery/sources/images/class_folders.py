"""Which class, and which part of the data, each image below a folder belongs to: its folders say it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distillery.errors import InputError
from distillery.sources.images.image_tree import ImageTree, first_of, shown

# What the folder of a part may be called, in lower case.
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
RESERVED = {name for names in PARTS.values() for name in names}


@dataclass
class LabelledImages:
    """Images in the order of rows: those to learn from, then those of the test split.

    Attributes:
        files: The image files [N].
        labels: The class of each [N].
        test_count: How many of them, the last ones, are the test split; 0 where none came with the data.
        notes: What a user should know about the folders.
    """

    files: list[Path]
    labels: list[str]
    test_count: int
    notes: list[str]


@dataclass
class _Part:
    """A folder of class folders, and the images of each class, sorted by path."""

    folder: Path
    classes: dict[str, list[Path]]

    @property
    def name(self) -> str:
        return f"{self.folder.name}/"

    def images(self) -> list[tuple[Path, str]]:
        """Each image with its class, sorted by path."""
        images = []
        for label, files in self.classes.items():
            images += [(file, label) for file in files]
        return sorted(images)


def labelled_images(tree: ImageTree) -> LabelledImages:
    """The images of a tree with their classes. What belongs to no class is added to what the tree leaves out.

    Below ``train/``, ``val/`` and ``test/``, or below the root where there are no such folders, each folder is a class,
    and all images in it at any depth are of that class.

    Raises:
        InputError: A class or a part of the data would be lost, or mistaken for another.
    """
    folders = _part_folders(tree)
    _leave_out_the_rest(tree, folders)
    parts = {name: _Part(folder, _classes(tree, folder)) for name, folder in folders.items()}
    train, val, test = parts["train"], parts.get("val"), parts.get("test")
    _check_train(train)
    for part in (val, test):
        if part is not None:
            _check_point(part, train)
    notes = _deeper_folders(tree, list(parts.values()))

    learned = train.images()
    if val is not None and test is not None:
        learned += val.images()
        notes.append(
            f"The images of {val.name} are added to those of {train.name}, of which data.split takes the validation "
            f"rows; {test.name} is the test split."
        )
    elif val is not None:
        test = val
        notes.append(f"There is no test/: {val.name} is the test split, and nothing is trained on it.")

    tested = test.images() if test is not None else []
    lacking = sorted(set(train.classes) - {label for _, label in tested})
    if test is not None and lacking:
        notes.append(f"Classes without an image in {test.name}: {first_of(lacking)}.")

    files = [file for file, _ in learned + tested]
    labels = [label for _, label in learned + tested]
    return LabelledImages(files, labels, len(tested), notes)


def _part_folders(tree: ImageTree) -> dict[str, Path]:
    """The folder of each part; the root alone, as train, where there are no parts."""
    folders: dict[str, Path] = {}
    for folder in tree.folders:
        if folder.parent != tree.root or folder.name.lower() not in RESERVED:
            continue
        part = next(part for part, names in PARTS.items() if folder.name.lower() in names)
        if part in folders:
            raise InputError(
                f"data.path: expected one folder of {part} images, got {folders[part].name}/ and {folder.name}/"
            )
        folders[part] = folder

    if folders and "train" not in folders:
        name = next(iter(folders.values())).name
        raise InputError(
            f"data.path: expected train/ beside {name}/ in {shown(tree.root)!r}, got none; if {name} is a class, "
            "give its folder another name"
        )
    return folders or {"train": tree.root}


def _leave_out_the_rest(tree: ImageTree, folders: dict[str, Path]) -> None:
    if tree.root in folders.values():
        return
    used = set(folders.values())
    beside = [folder for folder in tree.folders if folder.parent == tree.root and folder not in used]
    if beside:
        tree.leave_out("folders beside train/", *beside)
    loose = [image for image in tree.images if image.parent == tree.root]
    if loose:
        tree.leave_out("images in no class folder", *loose)


def _classes(tree: ImageTree, folder: Path) -> dict[str, list[Path]]:
    """The images of each class folder in the folder of a part."""
    classes: dict[str, list[Path]] = {below.name: [] for below in tree.folders if below.parent == folder}
    depth = len(folder.parts)
    loose = []
    for image in tree.images:
        if image.parent == folder:
            loose.append(image)
        elif image.parts[:depth] == folder.parts:
            classes[image.parts[depth]].append(image)

    if any(classes.values()):
        if loose:
            tree.leave_out("images in no class folder", *loose)
        return classes
    if loose:
        raise InputError(
            f"data.path: expected <class>/ folders of images in {shown(folder)!r}, got {len(loose)} images directly "
            "in it; move them into class folders, or away from there if they have no label"
        )
    raise InputError(
        f"data.path: expected images in <class>/ folders below {shown(folder)!r}, got none{_other_files(tree, folder)}"
    )


def _other_files(tree: ImageTree, folder: Path) -> str:
    others = []
    for paths in tree.left_out.values():
        others += [shown(path, folder) for path in paths if folder in path.parents]
    return f", but these, which are not read: {first_of(sorted(others))}" if others else ""


def _check_train(train: _Part) -> None:
    for label in train.classes:
        if shown(Path(label)) != label:
            raise InputError(f"data.path: expected the name of a class folder in UTF-8, got {shown(Path(label))!r}")

    empty = sorted(label for label, files in train.classes.items() if not files)
    if empty:
        raise InputError(
            f"data.path: expected images in every class folder, got none that Pillow reads in "
            f"{shown(train.folder / empty[0])!r}; put images into it, or take it out of {shown(train.folder)!r}"
        )

    label, files = next(iter(train.classes.items()))
    folder = train.folder / label
    if len(train.classes) == 1 and any(file.parent != folder for file in files):
        raise InputError(
            f"data.path: expected at least two class folders, got {shown(folder)!r} alone; "
            "if the folders in it are the classes, name it in data.path"
        )


def _check_point(part: _Part, train: _Part) -> None:
    held = {label for label, files in part.classes.items() if files}
    unknown = sorted(held - set(train.classes))
    if unknown:
        names = ", ".join(shown(Path(label)) for label in unknown)
        raise InputError(f"data.path: {part.folder.name} holds classes that train lacks: {names}")


def _deeper_folders(tree: ImageTree, parts: list[_Part]) -> list[str]:
    """A note that names the folders of images inside class folders, if there are any."""
    deeper = set()
    for part in parts:
        depth = len(part.folder.parts) + 1
        for file, _ in part.images():
            inside = file.parts[depth:-1]
            if not inside:
                continue
            deeper.add(file.parent)
            for name in inside:
                if name.lower() in RESERVED:
                    raise InputError(
                        f"data.path: expected {name}/ as a folder of class folders, got it inside of one: "
                        f"{shown(file.parent)!r}; move it, or give it another name"
                    )
    names = [shown(folder, tree.root) for folder in sorted(deeper)]
    return [f"Images in deeper folders are of the class at the top: {first_of(names)}."] if names else []
