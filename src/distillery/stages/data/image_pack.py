"""The pack of images: what an earlier stage has encoded is linked, only the rest is decoded and written.

Encoded rows lie in parts, files of any number of rows that never change. A stage holds hard links to parts of the
earlier stage with the most images in common, at most one part of its own with what those lack, and an index that says
where each image lies. So a stage is whole by itself, whatever becomes of the other one. Images are known by the hash of
their content, wherever they stand in the folder. A part is copied (without decoding) instead of linked where that is no
more than is written anyway, or where most of it would lie there for nothing. So there are few parts, the largest holds
nearly all rows, and over many nights a row is copied a few times, log2 of the rows at most.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from distillery.ops.encoded_rows import FOLDER, INDEX, Index, mapped
from distillery.sources import Rows
from distillery.stages.data.pack import Encode, check_usable, finish, pack
from distillery.store.checksums import Checksums
from distillery.store.manifest import broken_file

log = logging.getLogger(__name__)


def pack_images(work: Path, rows: Rows, graph: str, encode: Encode) -> np.ndarray:
    """Encodes all images into the stage directory `work`, below ``inputs``; returns which could be read [N].

    Args:
        work: Perhaps what a killed run left. The other stages lie beside it.
        rows: The source.
        graph: Digest of all that makes the inputs of a file's bytes.
        encode: The network's inputs [1, ...] of a row [1].

    Raises:
        InputError: An image cannot be read and the source says to stop, or none can.
        OSError: The disk is full.
    """
    (work / FOLDER).mkdir(exist_ok=True)
    hashes = np.empty(0, np.uint64) if rows.hashes is None else rows.hashes
    earlier = _most_alike(work, hashes, graph)
    parts: list[str] = []
    part = np.full(len(rows), -1, np.int32)
    place = np.zeros(len(rows), np.int64)
    if earlier is not None:
        encode = earlier.before(encode)
        for number in earlier.worth_linking():
            if earlier.link(number, work):
                mine = np.flatnonzero(earlier.part == number)
                part[mine] = len(parts)
                place[mine] = earlier.place[mine]
                parts.append(earlier.index.parts[number])

    usable = np.ones(len(rows), bool)
    own = np.flatnonzero(part < 0)
    log.info("data: %d of %d images are encoded in an earlier stage", len(rows) - len(own), len(rows))
    if len(own):
        name = f"{work.stem}.npy"
        while name in parts:  # this very stage was there before, and another one still has its part
            name = f"again-{name}"
        part[own] = len(parts)
        place[own] = np.arange(len(own))
        parts.append(name)
        usable[own] = pack(work / FOLDER / name, rows, own, encode)

    check_usable(usable)
    Index(graph, hashes, parts, part, place, usable).save(work)
    return usable


def finish_images(work: Path) -> None:
    """Removes journals, and what a killed run had begun otherwise, when nothing of the stage is left to do."""
    wanted = {*Index.load(work).parts, Path(INDEX).name}
    for file in (work / FOLDER).iterdir():
        finish(file)
        if file.name not in wanted:
            file.unlink(missing_ok=True)


class _Earlier:
    """What an earlier stage holds of these images.

    Args:
        stage: Its directory.
        index: Where its images lie.
        row: Its row with the same image, int64 [N]; -1 where there is none.
    """

    def __init__(self, stage: Path, index: Index, row: np.ndarray) -> None:
        self.index, self._stage = index, stage
        self.part = np.where(row < 0, -1, index.part[row])
        self.place = index.place[row]
        self._arrays: dict[int, np.ndarray] = {}
        for number in np.unique(self.part[self.part >= 0]).tolist():
            file = f"{FOLDER}/{index.parts[number]}"
            broken = broken_file(stage, [file])
            if broken is not None:
                log.warning("data: %s is damaged, its images are encoded again", broken)
                self.part[self.part == number] = -1
                continue
            self._arrays[number] = mapped(stage / file)

    def worth_linking(self) -> list[int]:
        """The parts to link; those with the fewest of these images are rather copied to what is written anyway."""
        written = int((self.part < 0).sum())
        shared = {number: len(np.unique(self.place[self.part == number])) for number in self._arrays}
        worth = []
        for number, count in sorted(shared.items(), key=lambda item: item[1]):
            mostly_unused = 2 * count < len(self._arrays[number])
            if count <= written or mostly_unused:
                written += count
            else:
                worth.append(number)
        return worth

    def link(self, number: int, work: Path) -> bool:
        """Links a part into another stage directory; whether the file system does that."""
        name = f"{FOLDER}/{self.index.parts[number]}"
        target = work / name
        target.unlink(missing_ok=True)
        try:
            os.link(self._stage / name, target)
        except OSError as error:
            log.info("data: %s cannot be linked (%s), it is copied", self._stage / name, error.strerror)
            return False
        checksums = Checksums.beside(work)
        checksums.take_over(name, Checksums.beside(self._stage))
        checksums.save()
        return True

    def before(self, encode: Encode) -> Encode:
        """`encode`, but for images that are here."""

        def found_or_encoded(ids: np.ndarray) -> np.ndarray:
            (row,) = ids
            if self.part[row] < 0:
                return encode(ids)
            return self._arrays[int(self.part[row])][self.place[row]][None]

        return found_or_encoded


def _most_alike(work: Path, hashes: np.ndarray, graph: str) -> _Earlier | None:
    """The finished stage beside `work` that holds the most of these images, encoded by the same graph."""
    best: tuple[int, Path, Index, np.ndarray] | None = None
    for file in sorted(work.parent.glob(f"*/{INDEX}")):
        stage = file.parents[1]
        if stage.suffix:
            continue  # not finished
        try:
            index = Index.load(stage)
        except (OSError, ValueError):
            continue  # found damaged when it is opened
        if index.graph != graph:
            continue
        row = index.rows_of(hashes)
        count = int((row >= 0).sum())
        if count > (0 if best is None else best[0]):
            best = count, stage, index, row
    return None if best is None else _Earlier(*best[1:])
