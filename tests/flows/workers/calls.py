"""Functions that the tests of shared work send to workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from distillery.devices import resolved
from distillery.store import Handle, Store


def add(a: int, b: int, on_epoch: Callable[..., None] | None = None) -> int:
    """The sum, after two reports."""
    for epoch in (1, 2):
        if on_epoch is not None:
            on_epoch(0, epoch, {"loss": a / epoch})
    return a + b


def share(folder: Path, others: int, device: str) -> tuple[str, str, int]:
    """(GPUs, device, threads) of this process, once so many have come here."""
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < others:
        time.sleep(0.01)
    return os.environ["CUDA_VISIBLE_DEVICES"], resolved(device), torch.get_num_threads()


def fail(text: str) -> None:
    """An error of the call itself."""
    raise ValueError(text)


def stay(marker: Path) -> str:
    """Works for ever the first time, and says so in a file; is done at once the second time."""
    if marker.exists():
        return "done by another"
    marker.with_suffix(".tmp").write_text(str(os.getpid()))
    marker.with_suffix(".tmp").rename(marker)
    while True:
        time.sleep(1)


def die() -> None:
    """Takes the worker down."""
    os._exit(9)


def double(found: Handle, store: Store) -> Handle:
    """A stage with the text of another one twice, and the home in which it was made."""

    def build(work: Path) -> dict[str, str]:
        (work / "text").write_text(2 * found.file("text").read_text())
        return {"home": os.environ.get("DISTILLERY_HOME", "")}

    return store.stage("twice", found.name, found.fingerprint, build)
