"""Where things lie and what the machine offers. None of it changes a result, so none of it is in the config."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from distillery import devices
from distillery import memory as memory_mb
from distillery.devices import visible_gpus
from distillery.errors import InputError
from distillery.store.remote import VARIABLE as REMOTE
from distillery.store.remote import Remote
from distillery.training import torchrun

DATABASE = "DISTILLERY_DATABASE"
LOCAL = "local"  # a Dask scheduler of the run's own


@dataclass(frozen=True)
class Places:
    """Folders and resources of this process, from the environment.

    DISTILLERY_HOME: folder that holds everything below; the current one by default.
    DISTILLERY_WORKERS: processes that train at the same time; by default one per core, or per GPU. ``shared:N``: N
        workers that Prefect starts, on any machines that share DISTILLERY_HOME; ``shared:0``: those that run
        ``distillery work`` there. ``dask:N``: N processes below a Dask scheduler; ``dask:tcp://host:8786``: the
        workers of one that runs.
    DISTILLERY_DEVICE: cpu, cuda, ...; by default the GPU if there is one. It is read by each process that computes, on
        its own machine: a run on a laptop does not tell workers elsewhere to do without their GPUs.
    DISTILLERY_GPUS_PER_TRAINING: GPUs that train one teacher together, 1 by default; a worker has as many. With 2, a
        machine of four GPUs trains two teachers at a time. On a CPU: processes that train one teacher together.
    DISTILLERY_MEMORY_MB: what a process keeps in memory of its training inputs, and of its targets; by default 512, and
        on a GPU an eighth of its free memory.
    DISTILLERY_DATABASE: postgresql://..., where several machines share a tracking server: its locks keep promotions
        apart (flows/tracking/lock.py), and Optuna's studies are kept there.
    DISTILLERY_REMOTE: s3://bucket/prefix, or another address that fsspec opens: finished stages are shared there by
        machines that do not share DISTILLERY_HOME.
    DISTILLERY_PRICE_PER_HOUR: what an hour of one worker costs, its GPUs too, without a currency; by default no money
        is shown.
    MLFLOW_TRACKING_URI: by default the sqlite database mlflow/mlflow.db.
    """

    home: Path
    workers: int
    device: str
    price_per_hour: float | None = None
    shared: bool = False
    gpus_per_training: int = 1
    dask: str | None = None

    @classmethod
    def from_environment(cls) -> Places:
        """The places that the environment names.

        Raises:
            InputError: A variable holds something else than expected.
        """
        device = devices.resolved()
        together = _together(device)
        able = len(os.sched_getaffinity(0)) if device == "cpu" else len(visible_gpus(device))
        given = os.environ.get("DISTILLERY_WORKERS", str(max(1, able // together)))
        text, shared, dask = _where(given)
        if not text.isdigit() or int(text) < (0 if shared or dask not in (None, LOCAL) else 1):
            wanted = "a number of processes, shared:N, dask:N or dask:tcp://host:port"
            raise InputError(f"DISTILLERY_WORKERS: expected {wanted}, got {given!r}")
        memory = os.environ.get(memory_mb.VARIABLE, str(memory_mb.DEFAULT_MB))
        if not memory.isdigit():
            raise InputError(f"{memory_mb.VARIABLE}: expected a number of megabytes, got {memory!r}")
        home = Path(os.environ.get("DISTILLERY_HOME", ".")).resolve()
        return cls(home, int(text), device, _price(), shared, together, dask)

    @property
    def store(self) -> Path:
        """Stage directories and the studies' database."""
        return self.home / ".distillery"

    @property
    def runs(self) -> Path:
        """Reports, a folder per experiment."""
        return self.home / "runs"

    @property
    def tracking_uri(self) -> str:
        """MLflow's store."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @property
    def database(self) -> str | None:
        """The PostgreSQL database whose locks and studies several machines share; None where it is one machine."""
        return os.environ.get(DATABASE) or None

    @property
    def remote(self) -> Remote | None:
        """Where finished stages are shared beyond this home; None where they are not."""
        return Remote(os.environ[REMOTE]) if os.environ.get(REMOTE) else None

    @property
    def artifacts(self) -> str | None:
        """Where a store without a server keeps artifacts; None leaves it to the server."""
        return None if self.tracking_uri.startswith("http") else (self.home / "mlflow" / "artifacts").as_uri()


def _together(device: str) -> int:
    text, gpus = os.environ.get(torchrun.VARIABLE, "1"), len(visible_gpus(device))
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"{torchrun.VARIABLE}: expected a number of GPUs, got {text!r}")
    if int(text) > 1 and device not in ("cpu", "cuda"):
        raise InputError(f"{torchrun.VARIABLE}: expected 1 on the one device {device!r}, got {text}")
    if gpus % int(text):
        raise InputError(f"{torchrun.VARIABLE}: expected a divisor of the {gpus} visible GPUs, got {text}")
    return int(text)


def _where(workers: str) -> tuple[str, bool, str | None]:
    """(how many, whether a folder's, Dask's scheduler) of what DISTILLERY_WORKERS says."""
    kind, colon, rest = workers.partition(":")
    if not colon or kind not in ("shared", "dask"):
        return workers, False, None
    if kind == "dask" and "://" in rest:
        return "0", False, rest
    return rest, kind == "shared", LOCAL if kind == "dask" else None


def _price() -> float | None:
    text = os.environ.get("DISTILLERY_PRICE_PER_HOUR", "")
    if not text:
        return None
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < math.inf:
        raise InputError(f"DISTILLERY_PRICE_PER_HOUR: expected a number of 0 or more without a currency, got {text!r}")
    return price
