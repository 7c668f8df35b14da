"""Opens trained members again."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from distillery.errors import InputError
from distillery.models import MODELS, GivenLogits
from distillery.stages.data.dataset import Dataset
from distillery.stages.teachers import estimator_files
from distillery.stages.teachers.members import EstimatorMember, FoldsMember, GivenMember, Member, NetworkMember
from distillery.store import Handle, fingerprint
from distillery.training.networks import load_network

MOST_KEPT_BYTES = 128 << 20
"""Of the files of members that a process keeps open."""

_kept: dict[Hashable, tuple[Member, int]] = {}
_lock = Lock()


def model_folders(folder: Path, folds: int | None) -> list[Path]:
    """Where the models of a member lie: one for each fold, or one."""
    if folds is None:
        return [folder]
    return [folder / f"fold-{number}" for number in range(folds)]


def load_member(handle: Handle, dataset: Dataset, device: str = "cpu") -> Member:
    """The member that a `teachers` stage directory holds.

    A process keeps those that it has opened, while their files are small and unchanged: to open the estimators of all
    folds takes longer than their answers, and each split asks again.
    """
    files = sorted(path for path in Path(handle.path).rglob("*") if path.is_file())
    states = [path.stat() for path in files]
    size = sum(state.st_size for state in states)
    key = (handle.path, dataset.handle.path, device, tuple((s.st_mtime_ns, s.st_size) for s in states))
    with _lock:
        if key in _kept:
            return _kept[key][0]
    member = _opened(handle, dataset, device)
    with _lock:
        if size + sum(bytes_ for _, bytes_ in _kept.values()) > MOST_KEPT_BYTES:
            _kept.clear()
        if size <= MOST_KEPT_BYTES:
            _kept[key] = (member, size)
    return member


def _opened(handle: Handle, dataset: Dataset, device: str) -> Member:
    if handle.file("given.npz").exists():
        with np.load(handle.file("given.npz")) as arrays:
            return GivenMember(GivenLogits(arrays["logits"]))
    made_from = _made_from(handle)
    folders = model_folders(Path(handle.path), made_from["folds"])
    models = [_load_model(folder, made_from["model"], dataset, device) for folder in folders]
    if made_from["folds"] is None:
        return models[0]
    assert dataset.folds is not None
    return FoldsMember(models, dataset.folds)


def _load_model(folder: Path, model: dict[str, Any], dataset: Dataset, device: str) -> NetworkMember | EstimatorMember:
    spec = dataset.spec
    if MODELS.traits(model["family"])["network"]:
        return NetworkMember(load_network(model, spec, folder / "model.safetensors"), device)
    unfitted = MODELS[model["family"]](spec, **{k: v for k, v in model.items() if k != "family"})
    trusted = model.get("trusted", False)
    return EstimatorMember(estimator_files.load(folder, unfitted, trusted=trusted), spec.classes)


def model_of(handle: Handle) -> dict[str, Any]:
    """Family and options of a member: those that its stage is named by, whoever has written the files.

    They say which file is opened, and whose code is run for it. The stage's name comes from this run's own config.
    """
    model: dict[str, Any] = _made_from(handle)["model"]
    return model


def size_mb(handle: Handle) -> float:
    """Size of the files of a member's estimators."""
    folders = model_folders(Path(handle.path), _made_from(handle)["folds"])
    return sum(estimator_files.size_mb(folder) for folder in folders)


def _made_from(handle: Handle) -> dict[str, Any]:
    """See `member_keys.made_from`.

    Raises:
        InputError: The file says something else than what its folder is named by.
    """
    key = handle.json("member.json").get("key")
    if fingerprint("teachers", key) != handle.fingerprint:
        raise InputError(f"{handle.file('member.json')}: expected the member that the folder is named by, got another")
    made_from: dict[str, Any] = key[1]
    return made_from
