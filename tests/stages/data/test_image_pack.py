"""The pack of a folder that changes: equal to one that is made anew, and hardly anything of it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distillery.config import experiment
from distillery.errors import InputError
from distillery.ops.encoded_rows import Index
from distillery.sources import folder
from distillery.stages.data import preparation as stage
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preparation import prepare, read_source
from distillery.store import Handle, Store

COUNT = 40
SPLIT = {"order": "hashed"}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded."""
    read, seen = folder.read_image, []

    def noted(file: Path, *rest: Any) -> np.ndarray:
        seen.append(file.name)
        return read(file, *rest)

    monkeypatch.setattr(folder, "read_image", noted)
    return seen


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty images of each of two classes."""
    for number in range(COUNT):
        drawn(tmp_path / "photos", number)
    return tmp_path / "photos"


def drawn(place: Path, number: int, name: str = "") -> Path:
    """An image of its own."""
    pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 3), np.uint8)
    file = place / "ab"[number % 2] / (name or f"{number:03d}.png")
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return file


def packed(photos: Path, store: Store, **more: Any) -> Handle:
    """The stage `data` of the folder as it is now."""
    data = experiment.Data(source="folder", path=str(photos), image_size=8, split=SPLIT, **more)
    return prepare(data, read_source(data, store), store)


def equal_to_a_new_one(handle: Handle, photos: Path, tmp_path: Path, **more: Any) -> bool:
    """Whether inputs, splits and everything else are what a store gives that knows nothing."""
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
    other = packed(photos, Store(tmp_path / "other"), **more)
    mine, theirs = Dataset(handle), Dataset(other)
    assert np.array_equal(np.asarray(mine.inputs), np.asarray(theirs.inputs))
    assert all(np.array_equal(rows, theirs.splits[name]) for name, rows in mine.splits.items())
    return handle.fingerprint == other.fingerprint and handle.json("dataset.json") == other.json("dataset.json")


def parts(handle: Handle) -> list[int]:
    """Rows of every part, the largest first."""
    names = Index.load(Path(handle.path)).parts
    return sorted((len(np.load(handle.file("inputs") / name)) for name in names), reverse=True)


def test_one_image_more_is_all_that_is_decoded_and_written(
    photos: Path, store: Store, tmp_path: Path, decoded: list[str]
) -> None:
    """property: wherever it stands in the folder; the large part is the same file on disk, the small ones stay few."""
    first = packed(photos, store)
    (name,) = Index.load(Path(first.path)).parts
    large = first.file("inputs") / name
    for night in range(4):
        decoded.clear()
        file = drawn(photos, 100 + night, f"{night}00-new.png")
        handle = packed(photos, store)
        assert set(decoded) == {file.name} and not handle.cached
        assert large.samefile(handle.file("inputs") / name)
        assert parts(handle) == [COUNT, *([[1], [2], [2, 1], [4]][night])]
    assert equal_to_a_new_one(handle, photos, tmp_path)


def test_images_that_go_move_or_change(photos: Path, store: Store, tmp_path: Path, decoded: list[str]) -> None:
    """property: a removed image costs nothing, a renamed one neither, a changed one is decoded; all is as made anew."""
    packed(photos, store)
    decoded.clear()
    (photos / "a" / "000.png").unlink()
    (photos / "a" / "002.png").rename(photos / "a" / "zzz.png")
    (photos / "a" / "004.png").rename(photos / "b" / "004.png")
    handle = packed(photos, store)
    assert decoded == [] and parts(handle) == [COUNT] and equal_to_a_new_one(handle, photos, tmp_path)
    decoded.clear()
    drawn(photos, 501, "001.png")
    assert equal_to_a_new_one(packed(photos, store), photos, tmp_path)
    assert decoded.count("001.png") > 1 and parts(packed(photos, store)) == [COUNT, 1]


def test_a_part_is_not_kept_for_a_few_rows(photos: Path, store: Store, tmp_path: Path, decoded: list[str]) -> None:
    """property: when most images are gone the rest is copied, still without decoding any."""
    packed(photos, store)
    decoded.clear()
    for file in [*sorted(photos.glob("*/*"))[5:20], *sorted(photos.glob("*/*"))[25:]]:
        file.unlink()
    handle = packed(photos, store)
    assert decoded == [] and parts(handle) == [10] and equal_to_a_new_one(handle, photos, tmp_path)


def test_a_stage_outlives_the_one_whose_parts_it_links(photos: Path, store: Store, tmp_path: Path) -> None:
    """resume: with all earlier stages gone it is whole; one that comes back takes its rows from the later one."""
    first = packed(photos, store)
    file = drawn(photos, 100)
    second = packed(photos, store)
    before = parts(second)
    shutil.rmtree(first.path)
    assert packed(photos, store).cached and equal_to_a_new_one(second, photos, tmp_path)
    file.unlink()
    again = packed(photos, store)
    assert again.path == first.path and parts(again) == [COUNT] and before == [COUNT, 1]
    assert equal_to_a_new_one(again, photos, tmp_path)


def test_other_pixels_share_nothing(
    photos: Path, store: Store, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """property: of another fit, in gray or decoded otherwise, all images are new; rows of another split are not."""
    packed(photos, store)
    decoded.clear()
    assert equal_to_a_new_one(packed(photos, store, image_fit="squash"), photos, tmp_path, image_fit="squash")
    assert equal_to_a_new_one(packed(photos, store, gray=True), photos, tmp_path, gray=True)
    assert len(decoded) >= 4 * COUNT
    decoded.clear()
    monkeypatch.setattr(stage, "DECODING", 0)
    (photos / "a" / "000.png").rename(photos / "a" / "other.png")
    assert parts(packed(photos, store)) == [COUNT] and len(decoded) >= COUNT
    decoded.clear()
    data = experiment.Data(source="folder", path=str(photos), image_size=8, split=SPLIT | {"seed": 1})
    assert parts(prepare(data, read_source(data), store)) == [COUNT] and decoded == []


def test_damaged_parts_are_not_linked(
    photos: Path, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """resume: one flipped byte, and a warning names the file; what was linked to it is found damaged, too."""
    first = packed(photos, store)
    (name,) = Index.load(Path(first.path)).parts
    file = first.file("inputs") / name
    with file.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\0" if np.load(file)[-1, -1, -1, -1] else b"\1")
    drawn(photos, 100)
    handle = packed(photos, store)
    assert f"{file} is damaged, its images are encoded again" in caplog.text
    assert parts(handle) == [COUNT + 1] and equal_to_a_new_one(handle, photos, tmp_path)


def test_a_disk_without_links_gets_copies(
    photos: Path, store: Store, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """contract: nothing is decoded twice, whatever the file system can do."""
    packed(photos, store)
    drawn(photos, 100)
    decoded.clear()

    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    handle = packed(photos, store)
    assert decoded == ["100.png"] and parts(handle) == [COUNT + 1]
    monkeypatch.undo()
    assert equal_to_a_new_one(handle, photos, tmp_path)


def test_images_that_cannot_be_read_are_tried_again(photos: Path, store: Store, tmp_path: Path) -> None:
    """contract: left out, named, and never taken for what an earlier stage holds."""
    (photos / "a" / "000.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"set data\.on_error to skip"):
        packed(photos, store)
    skip = {"on_error": "skip"}
    assert len(Dataset(packed(photos, store, **skip)).skipped) == 1
    drawn(photos, 100)
    handle = packed(photos, store, **skip)
    assert [Path(name).name for name in Dataset(handle).skipped] == ["000.png"] and parts(handle) == [COUNT, 2]
    assert equal_to_a_new_one(handle, photos, tmp_path, **skip)


def test_a_killed_pack_goes_on(
    photos: Path, store: Store, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """resume: killed while it decodes, or when all is there but the end; what it linked or began is used or removed."""
    packed(photos, store)
    for number in range(100, 110):
        drawn(photos, number)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "finish_images", lambda work: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            packed(photos, store)
    (work,) = store.root.glob("data/*.part")
    (work / "inputs" / "of-another-plan.npy").write_bytes(b"")
    decoded.clear()
    handle = packed(photos, store)
    assert decoded == [] and parts(handle) == [COUNT, 10] and equal_to_a_new_one(handle, photos, tmp_path)
    assert len(list(handle.file("inputs").iterdir())) == 3
