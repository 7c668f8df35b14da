"""Folders as they are: which images are of which class and split, what is left out, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillery.config import experiment
from distillery.errors import InputError
from distillery.sources import SOURCES, Rows
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preparation import prepare
from distillery.store import Store


def draw(root: Path, *names: str) -> Path:
    """A small image of its own for every name; a name that ends in / is an empty folder, other endings are texts."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if name.endswith((".png", ".JPG", ".jfif")):
            generator = np.random.default_rng(list(os.fsencode(path)))
            pixels = generator.integers(0, 256, (6, 6, 3), np.uint8)
            Image.fromarray(pixels).save(path, "PNG")
        elif not name.endswith("/"):
            path.write_text("text")
    return root


def read(root: Path, on_error: str = "stop") -> Rows:
    """The source's rows."""
    rows: Rows = SOURCES["folder"](path=str(root), on_error=on_error)
    return rows


def table(rows: Rows, root: Path) -> dict[str, str]:
    """Of each file below `root`: its class, in capitals for the test split."""
    test = np.zeros(len(rows), bool) if rows.given_test is None else rows.given_test
    names = [str(Path(name).relative_to(root)) for name in rows.names]
    labels = [label.upper() if tested else str(label) for label, tested in zip(rows.labels, test, strict=True)]
    return dict(zip(names, labels, strict=True))


def test_what_is_not_used_is_counted_and_named(tmp_path: Path) -> None:
    """contract: hidden files and folders make no class, everything else that is not used is named by its kind."""
    root = draw(tmp_path / "x", "cat/a.png", "cat/b.JPG", "dog/c d.png", "dog/é.jfif")
    expected = table(read(root), root)
    assert expected == {"cat/a.png": "cat", "cat/b.JPG": "cat", "dog/c d.png": "dog", "dog/é.jfif": "dog"}
    assert not read(root).notes

    draw(root, ".ipynb_checkpoints/a.png", "__MACOSX/cat/._a.png", "cat/.git/a.png", "dog/@eaDir/a.png")
    draw(root, "cat/._a.png", ".DS_Store", "dog/Thumbs.db", "desktop.ini")
    digest = read(root).digest
    draw(root, "dog/.later.png")
    assert read(root).digest == digest
    draw(root, "readme.txt", "cat/1.heic", "cat/2.HEIC", "loose.png", "cat/LICENSE")
    (root / "dog" / "gone.png").symlink_to(root / "nowhere")
    (root / "dog" / "self.png").symlink_to(root / "dog" / "self.png")
    (root / "dog" / "up").symlink_to(root)
    os.mkfifo(root / "dog" / "pipe.png")
    assert read(root).digest != digest  # so that the notes are new as well

    rows = read(root)
    assert table(rows, root) == expected
    assert rows.notes == (
        "Left out, files of kind .heic: 2 ('cat/1.heic', 'cat/2.HEIC').",
        "Left out, files of kind .txt: 1 ('readme.txt').",
        "Left out, files without a suffix: 1 ('cat/LICENSE').",
        "Left out, hidden or system files: 5 ('.DS_Store', 'cat/._a.png', 'desktop.ini', ...).",
        "Left out, hidden or system folders: 4 ('.ipynb_checkpoints', '__MACOSX', 'cat/.git', ...).",
        "Left out, images in no class folder: 1 ('loose.png').",
        "Left out, links to a folder above them: 1 ('dog/up').",
        "Left out, links to nothing: 2 ('dog/gone.png', 'dog/self.png').",
        "Left out, special files: 1 ('dog/pipe.png').",
    )


def test_links_are_followed(tmp_path: Path) -> None:
    """contract: a linked file and a linked class folder are read like others."""
    draw(tmp_path / "else", "a.png", "b.png")
    root = draw(tmp_path / "x", "cat/c.png")
    (root / "dog").symlink_to(tmp_path / "else")
    (root / "cat" / "d.png").symlink_to(tmp_path / "else" / "a.png")
    assert table(read(root), root) == {"cat/c.png": "cat", "cat/d.png": "cat", "dog/a.png": "dog", "dog/b.png": "dog"}


def test_deeper_folders_are_of_the_class_at_the_top(tmp_path: Path) -> None:
    """contract: at any depth, in every part; a note names them, so that nobody takes them for classes."""
    root = draw(tmp_path, "train/cat/2023/may/a.png", "train/dog/b.png", "train/dog/c/d.png", "test/cat/e/f.png")
    rows = read(root)
    assert list(table(rows, root).values()) == ["cat", "dog", "dog", "CAT"]
    assert rows.notes == (
        "Images in deeper folders are of the class at the top: 3 ('test/cat/e', 'train/cat/2023/may', 'train/dog/c').",
        "Classes without an image in test/: 1 ('dog').",
    )


def test_val_and_test_mean_what_they_say(tmp_path: Path) -> None:
    """contract: val is the test split where there is no test, and read as training images beside it; a note says so."""
    root = draw(tmp_path, "Train/cat/a.png", "Train/dog/b.png", "valid/cat/c.png", "valid/dog/d.png", "more/x.png")
    rows = read(root)
    assert list(table(rows, root).values()) == ["cat", "dog", "CAT", "DOG"]
    assert rows.notes == (
        "Left out, folders beside train/: 1 ('more').",
        "There is no test/: valid/ is the test split, and nothing is trained on it.",
    )
    draw(root, "test/cat/e.png", "test/dog/f.png")
    rows = read(root)
    assert list(table(rows, root).values()) == ["cat", "dog", "cat", "dog", "CAT", "DOG"]
    assert rows.notes[1] == (
        "The images of valid/ are added to those of Train/, of which data.split takes the validation rows; "
        "test/ is the test split."
    )


def test_names_of_classes_are_texts(tmp_path: Path) -> None:
    """property: spaces at the ends, the case and words such as None are kept."""
    names = [" cat", "cat", "Cat", "None", "nan", "1", "01", "日本 x"]
    root = draw(tmp_path, *(f"{name}/a.png" for name in names))
    assert set(read(root).labels) == set(names)


REFUSED: dict[str, tuple[list[str], str]] = {
    "flat": (["a.png", "b.png"], "expected <class>/ folders of images in '.*', got 2 images directly in it"),
    "flat test": (["train/cat/a.png", "train/dog/b.png", "test/c.png"], "images in '.*/test', got 1 images directly"),
    "flat train": (["train/a.png", "test/cat/b.png"], "images in '.*/train', got 1 images directly in it"),
    "flat val": (["train/cat/a.png", "val/b.png", "test/cat/c.png"], "images in '.*/val', got 1 images directly"),
    "empty test": (["train/cat/a.png", "train/dog/b.png", "test/"], "expected images in .* below '.*/test', got none"),
    "test alone": (["test/cat/a.png", "test/dog/b.png"], "expected train/ beside test/ in '.*', got none"),
    "test as a class": (["cat/a.png", "dog/b.png", "test/c.png"], "expected train/ beside test/ in '.*', got none"),
    "twice": (["train/cat/a.png", "val/cat/b.png", "valid/cat/c.png"], "one folder of val images, got val/ and valid/"),
    "empty class": (
        ["cat/a.png", "dog/b.png", "fox/"],
        "in every class folder, got none that Pillow reads in '.*/fox'",
    ),
    "unread class": (["cat/a.png", "dog/b.png", "fox/c.heic"], "in every class folder, got none .* in '.*/fox'"),
    "only others": (["cat/a.heic", "dog/b.heic"], "got none, but these, which are not read: 2 .'cat/a.heic'"),
    "one below": (["photos/cat/a.png", "photos/dog/b.png"], "two class folders, got '.*/photos' alone; if the folders"),
    "parts in classes": (
        ["cat/train/a.png", "dog/b.png"],
        "expected train/ as a folder of class folders, .*/cat/train",
    ),
    "not UTF-8": (["cat/a.png", "caf\udce9/b.png"], r"the name of a class folder in UTF-8, got 'caf\\\\xe9'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_folders_that_may_be_mistaken_are_refused(tmp_path: Path, case: str) -> None:
    """contract: one line that names the folder, before any image is opened."""
    names, message = REFUSED[case]
    with pytest.raises(InputError, match=f"data.path: .*{message}") as caught:
        read(draw(tmp_path, *names))
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


def test_names_of_files_may_be_any_bytes(tmp_path: Path, store: Store) -> None:
    """contract: a file whose name is not UTF-8 is read, and what is written of it is text."""
    root = draw(tmp_path / "x", "cat/caf\udce9.png", "dog/b.png", "dog/\udce9.txt")
    rows = read(root)
    assert rows.names[0].endswith(r"caf\xe9.png") and rows.read(0).shape == (6, 6, 3)
    "".join([*rows.names, *rows.notes]).encode()


def test_equal_files_are_counted(tmp_path: Path) -> None:
    """reference: copies by hand: within a class, under two classes, and on both sides of the test split."""
    root = draw(tmp_path, "train/cat/a.png", "train/cat/b.png", "train/dog/c.png", "test/cat/d.png", "test/dog/e.png")
    assert not read(root).notes

    def copy(source: str, target: str) -> None:
        (root / target).write_bytes((root / source).read_bytes())

    copy("train/cat/a.png", "train/cat/z.png")
    copy("train/cat/a.png", "train/dog/z.png")
    copy("train/dog/c.png", "test/dog/z.png")
    for name in ("train/cat/0.png", "train/cat/1.png"):
        (root / name).touch()  # empty files are damaged, not equal
    assert read(root).notes == (
        "Equal files of one class: 1, the first of them 'train/cat/a.png' and 'train/cat/z.png'.",
        "Equal files under two classes: 1, the first of them 'train/cat/a.png' and 'train/dog/z.png'.",
        "Equal files in the training images and in the test split: 1, the first of them 'train/dog/c.png' and "
        "'test/dog/z.png'.",
    )
    assert "data.split.order: hashed" in read(root / "train").notes[0]


def classes_of(root: Path, each: int = 6) -> Path:
    """Two classes with enough images for all splits."""
    return draw(root, *(f"{name}/{number}.png" for name in ("cat", "dog") for number in range(each)))


def prepared(root: Path, store: Store) -> Dataset:
    """The data stage, unreadable images left out."""
    split = {"val_ensemble": 2, "val_search": 2, "test": 2}
    options = {"source": "folder", "path": str(root), "on_error": "skip", "image_size": 6, "split": split}
    return Dataset(prepare(experiment.Data(**options), read(root, "skip"), store))


def test_images_that_are_left_out_or_changed_stand_in_the_notes(tmp_path: Path, store: Store) -> None:
    """contract: what only shows once the files are opened is a note of the prepared data."""
    root = classes_of(tmp_path / "x")
    Image.new("RGBA", (6, 6)).save(root / "cat" / "0.png")
    Image.fromarray(np.zeros((6, 6), np.uint16)).save(root / "cat" / "1.png")
    pages = [Image.new("L", (6, 6), colour) for colour in (1, 2)]
    pages[0].save(root / "dog" / "p.tif", save_all=True, append_images=pages[1:])
    (root / "dog" / "5.png").write_text("no image")
    (root / "dog" / "6.png").symlink_to("/proc/self/mem")  # the system cannot read it
    dataset = prepared(root, store)
    damaged = [str(root / "dog" / f"{number}.png") for number in (5, 6)]
    assert dataset.skipped == damaged
    assert dataset.notes == [
        "Files of several pages, of which the first is read: 1 ('dog/p.tif').",
        "Images with more than 8 bits a channel, of which the upper eight are read: 1 ('cat/1.png').",
        "Images with transparency, laid over white: 1 ('cat/0.png').",
        f"Images that cannot be read and are left out: 2, the first of them {damaged[0]!r}.",
    ]


def part_of(root: Path, part: str) -> Path:
    """The same classes below a part's folder."""
    return classes_of(root / part).parent


@pytest.mark.parametrize("make", [classes_of, lambda root: part_of(part_of(root, "train"), "test")])
def test_a_class_without_a_readable_image_is_refused(
    tmp_path: Path, store: Store, make: Callable[[Path], Path]
) -> None:
    """contract: damaged images may be skipped, but not all of a class; readable ones of the test split do not count."""
    root = make(tmp_path / "x")
    for number in range(6):
        for folder in {root, root / "train"}:
            if (folder / "dog").exists():
                (folder / "dog" / f"{number}.png").write_text(f"no image {number}")
    with pytest.raises(InputError, match="images that can be read in every class, got none of class 'dog'"):
        prepared(root, store)
