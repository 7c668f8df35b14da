"""Opens trained members again."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
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


def model_folder(folder: Path, left_out: tuple[int, ...]) -> Path:
    """Where the model of a member lies that was trained without these folds."""
    return folder.joinpath("-".join(map(str, ("without", *left_out)))) if left_out else folder


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
    model = model_of(handle)
    found = {}
    for left_out in dataset.left_out:
        found[left_out] = _load_model(model_folder(Path(handle.path), left_out), model, dataset, device)
    return member_of(found, dataset)


def member_of(models: Mapping[tuple[int, ...], NetworkMember | EstimatorMember], dataset: Dataset) -> Member:
    """The member that the models are, each by the folds that it was trained without."""
    if dataset.folds is None:
        return models[()]
    alone = [model for left_out, model in models.items() if len(left_out) == 1]
    pairs = {(left_out[0], left_out[1]): model for left_out, model in models.items() if len(left_out) == 2}
    return FoldsMember(alone, dataset.folds, pairs)


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

    Raises:
        InputError: The file says something else than what its folder is named by.
    """
    key = handle.json("member.json").get("key")
    if fingerprint("teachers", key) != handle.fingerprint:
        raise InputError(f"{handle.file('member.json')}: expected the member that the folder is named by, got another")
    model: dict[str, Any] = key[1]["model"]
    return model


def size_mb(handle: Handle, dataset: Dataset) -> float:
    """Size of the files of those of a member's estimators that answer new rows."""
    alone = [left_out for left_out in dataset.left_out if len(left_out) < 2]
    return sum(estimator_files.size_mb(model_folder(Path(handle.path), left_out)) for left_out in alone)
