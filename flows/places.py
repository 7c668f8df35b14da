"""Where things lie and what the machine offers. None of it changes a result, so none of it is in the config."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from distillery.errors import InputError


@dataclass(frozen=True)
class Places:
    """Folders and resources of this process, from the environment.

    DISTILLERY_HOME: folder that holds everything below; the current one by default.
    DISTILLERY_WORKERS: processes that train at the same time; by default one per core, or one if there is a GPU.
    DISTILLERY_DEVICE: cpu, cuda, ...; by default the GPU if there is one.
    MLFLOW_TRACKING_URI: by default the sqlite database mlflow/mlflow.db.
    """

    home: Path
    workers: int
    device: str

    @classmethod
    def from_environment(cls) -> Places:
        """The places that the environment names.

        Raises:
            InputError: A variable holds something else than expected.
        """
        device = os.environ.get("DISTILLERY_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
        cores = 1 if device != "cpu" else len(os.sched_getaffinity(0))
        text = os.environ.get("DISTILLERY_WORKERS", str(cores))
        if not text.isdigit() or int(text) < 1:
            raise InputError(f"DISTILLERY_WORKERS: expected a number of processes, got {text!r}")
        return cls(Path(os.environ.get("DISTILLERY_HOME", ".")).resolve(), int(text), device)

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
    def artifacts(self) -> str | None:
        """Where a store without a server keeps artifacts; None leaves it to the server."""
        return None if self.tracking_uri.startswith("http") else (self.home / "mlflow" / "artifacts").as_uri()
