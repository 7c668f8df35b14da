"""A worker's share of its machine: GPUs of its own, and threads.

Workers of one machine do not know each other: a pool, `distillery work`, Prefect or Dask may have started them. So each
takes the kernel's lock on a file for its GPU; the lock is dropped when its holder ends, however that happens.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO

import torch

from distillery.devices import AUTO, VARIABLE, VISIBLE, visible_gpus
from distillery.errors import InputError
from distillery.store.kernel_lock import try_lock
from distillery.training import torchrun

THREADS = "OMP_NUM_THREADS"


@cache
def take(threads: int | None = None) -> tuple[IO[str], ...]:
    """Gives this process its share, once and before it first uses a GPU; the lock files that hold it.

    With as many workers as GPUs each has its own (or as many as train one teacher together). Further workers are dealt
    out to the GPUs in turn. A worker that is told to use another device than ``cuda`` sees what it saw before.

    Args:
        threads: Of torch's. By default what OMP_NUM_THREADS says; else a GPU's share of the cores, or one.
    """
    device = os.environ.get(VARIABLE) or AUTO
    groups = dealt(visible_gpus("cuda" if device == AUTO else device), torchrun.processes())
    if threads is not None:
        torch.set_num_threads(threads)
    elif THREADS not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // len(groups)) if groups else 1)
    if not groups:
        return ()

    gpus, files = _locked(groups)
    os.environ[VISIBLE] = ",".join(gpus)
    return files


def dealt(gpus: Sequence[str], together: int) -> list[list[str]]:
    """The GPUs in groups of those that train one teacher together."""
    return [list(gpus[start : start + together]) for start in range(0, len(gpus), together)]


def _locked(groups: list[list[str]]) -> tuple[list[str], tuple[IO[str], ...]]:
    """The first group that nobody has, or that the fewest have, and its locked files."""
    folder = Path(tempfile.gettempdir()) / f"distillery-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise InputError(f"{folder}: expected a folder of this user's own for GPUs' locks; set TMPDIR to another")
    for others in itertools.count():
        for group in groups:
            files = tuple((folder / f"{gpu.replace('/', '-')}.{others}.lock").open("a") for gpu in group)
            if all(try_lock(file) for file in files):
                return group, files
            for file in files:
                file.close()
    raise AssertionError("unreachable")
