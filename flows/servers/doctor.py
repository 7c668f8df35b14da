"""What is installed, where things are stored, what is wrong."""

from __future__ import annotations

import importlib.metadata
import os
import shutil

import torch
from packaging.specifiers import SpecifierSet
from rich.console import Console

from distillery.address import masked
from distillery.errors import InputError
from distillery.flows.connections import check_prefect
from distillery.flows.environment import Places
from distillery.flows.safe_text import plain
from distillery.flows.servers import notify
from distillery.flows.tracking import history, lock, registry
from distillery.flows.tracking.runs import MlflowClient, connect
from distillery.flows.workers.shared_folder import open_workers
from distillery.store.remote import Remote

# Pairs outside these ranges install cleanly and then fail in silence; pyproject.toml says how.
RANGES = {
    "prefect": ">=3.8.8,<4",
    "fastapi": ">=0.139,<0.151",
    "sqlalchemy": ">=2.0.40,<2.1",
    "mlflow": ">=3.17,<4",
    "pandas": ">=2.2,<3",
    "optuna": ">=5,<6",
    "torch": ">=2.13",
    "timm": ">=1.0.31",
    "onnxruntime": ">=1.20",
    "zarr": ">=3",
}
ENOUGH_GB = 2.0


def examine(console: Console) -> bool:
    """Prints every check; the result is whether all passed."""
    passed = [_versions(console), _places(console), _stores(console)]
    return all(passed)


def _versions(console: Console) -> bool:
    fine = True
    for name, wanted in RANGES.items():
        try:
            version = importlib.metadata.version(name)
            good = SpecifierSet(wanted).contains(version, prereleases=True)
        except importlib.metadata.PackageNotFoundError:
            version, good = "missing", False
        fine &= _line(console, good, f"{name} {version}", "" if good else f"expected {wanted}")
    return fine


def _places(console: Console) -> bool:
    places = Places.from_environment()
    free = shutil.disk_usage(places.home).free / 1e9
    good = _line(console, os.access(places.home, os.W_OK), f"home {places.home}", "it cannot be written to")
    good &= _line(console, free > ENOUGH_GB, f"{free:.1f} GB free", f"expected at least {ENOUGH_GB:.0f}")
    console.print(plain(f"     store {places.store}, reports {places.runs}"))
    gpus, together = torch.cuda.device_count(), places.gpus_per_training
    if places.dask is None:
        each = f", {together} train one teacher together" if together > 1 else ""
        console.print(plain(f"     {places.workers} worker(s) on {places.device}, {gpus} GPU(s){each}"))
        return good
    try:
        with open_workers(places):
            return good & _line(console, True, f"Dask answers ({masked(places.dask)})", "")
    except InputError as error:
        return _line(console, False, "Dask", str(error))


def _stores(console: Console) -> bool:
    places = Places.from_environment()
    try:
        client = connect(places)
        good = _line(console, True, f"MLflow answers at {masked(places.tracking_uri)}", "")
        for name in registry.names(client):
            good &= _champion(console, client, name)
    except InputError as error:
        good = _line(console, False, "MLflow", str(error))
    try:
        lock.check_database(places)
    except InputError as error:
        good = _line(console, False, "lock", str(error))
    if places.remote is not None:
        good &= _remote(console, places.remote)
    try:
        server = check_prefect()
        notify.address()
        where = "none, one is started for each run" if server is None else masked(server)
        good &= _line(console, True, f"Prefect server: {where}", "")
    except InputError as error:
        good &= _line(console, False, "Prefect", str(error))
    return good


def _remote(console: Console, remote: Remote) -> bool:
    try:
        remote.check()
    except InputError as error:
        return _line(console, False, "remote", str(error))
    return _line(console, True, f"finished stages are shared at {remote.shown}", "")


def _champion(console: Console, client: MlflowClient, name: str) -> bool:
    model = registry.registered(client, name)
    expected = None if model is None else history.champion(history.read(model.tags))
    missing = expected is not None and model is not None and registry.CHAMPION not in model.aliases
    problem = f"version {expected} was the champion and is gone, there is none now; `distillery history {name}`"
    return not missing or _line(console, False, f"registered model {name}", problem)


def _line(console: Console, good: bool, what: str, problem: str) -> bool:
    mark = plain("ok   ", "green") if good else plain("bad  ", "red")
    console.print(mark + plain(what if good else f"{what}: {problem}"))
    return good
