"""Stage `teachers`: each member is trained, checkpointed and measured on val_ensemble."""

from __future__ import annotations

import inspect
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import joblib
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.special import log_softmax
from torch import nn

from distillery.config import Model, Recipe, Teacher
from distillery.dataset import Dataset
from distillery.errors import InputError
from distillery.metrics import quality
from distillery.models import MODELS, GivenLogits, InputSpec
from distillery.store import Handle, Store, checksum, fingerprint, write_json
from distillery.training.fit import Inputs, OnEpoch, fit, predict, seeded

VERSION = 2


class Member(Protocol):
    """Anything that gives logits for rows of the dataset."""

    def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Float32 [B, C] for encoded rows [B, ...], which are the rows [B] of the source."""


@dataclass(frozen=True)
class NetworkMember:
    """A trained network."""

    network: nn.Module
    device: str = "cpu"

    def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Logits of the network, evaluation mode."""
        return predict(self.network, inputs, device=self.device)


@dataclass(frozen=True)
class EstimatorMember:
    """A fitted classifier; its logits are log-probabilities, cut off at 1e-7."""

    estimator: Any

    def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Log-probabilities of the classifier."""
        probs = self.estimator.predict_proba(inputs.reshape(len(inputs), -1))
        return np.log(np.clip(probs, 1e-7, 1.0)).astype(np.float32)


@dataclass(frozen=True)
class GivenMember:
    """Logits from outside, looked up by row."""

    given: GivenLogits

    def logits(self, inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The given logits of these rows."""
        return self.given.logits[rows]


def derive_seed(*parts: Any) -> int:
    """A seed of 31 bits from anything that can be fingerprinted."""
    return int(fingerprint(*parts)[:8], 16) >> 1


def content_key(model: Model) -> list[Any]:
    """What determines a model before training: family and options, and the content of the files that they name."""
    source = {k: v for k, v in model.model_dump().items() if k not in ("copies", "recipe", "name")}
    return [source, *(checksum(Path(source[k]).expanduser()) for k in ("path", "checkpoint") if source.get(k))]


def build_network(model: Model, spec: InputSpec, seed: int) -> nn.Module:
    """A fresh network with the initial weights of `seed`."""
    with seeded(seed):
        network: nn.Module = MODELS[model.family](spec, **model.options)
    return network


def check_model(model: Model, spec: InputSpec, where: str, n_rows: int) -> None:
    """Builds a model once, and runs a network on two blank rows, before anything trains.

    Raises:
        InputError: It cannot be built, does not give [2, C], or holds given logits for another number of rows.
    """
    try:
        built = MODELS[model.family](spec, **model.options)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if isinstance(built, GivenLogits) and len(built.logits) != n_rows:
        raise InputError(f"{where}: expected given logits for {n_rows} rows of the data, got {len(built.logits)}")
    if not isinstance(built, nn.Module):
        return
    try:
        with torch.inference_mode():
            shape = tuple(built.eval()(torch.zeros(2, *spec.shape)).shape)
    except (RuntimeError, AssertionError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{where}: does not take inputs of shape {list(spec.shape)}: {first}") from error
    if shape != (2, spec.classes):
        raise InputError(f"{where}: expected logits of shape [2, {spec.classes}], got {list(shape)}")


def train_teacher(
    name: str,
    teacher: Teacher,
    recipe: Recipe,
    seed: int,
    data: Handle,
    store: Store,
    *,
    device: str = "cpu",
    on_epoch: OnEpoch | None = None,
) -> Handle:
    """One trained member: ``model.safetensors`` or ``model.joblib``, ``member.json``, ``history.json``.

    Raises:
        FloatingPointError: Training diverged.
    """
    trained = MODELS.traits(teacher.family)["network"]
    own_seed = derive_seed(seed, name)
    key = [VERSION, content_key(teacher), recipe if trained else None, own_seed, data.fingerprint]

    def build(work: Path) -> dict[str, Any]:
        dataset = Dataset(data)
        write_json(work / "member.json", {"name": name, "model": teacher.model_dump(), "seed": own_seed})
        member, history = _train(work, name, teacher, recipe, own_seed, dataset, device, on_epoch)
        write_json(work / "history.json", history)
        rows = dataset.splits["val_ensemble"]
        return quality(member.logits(dataset.inputs[rows], rows), dataset.labels("val_ensemble"))

    return store.stage("teachers", name, key, build)


def _train(
    work: Path,
    name: str,
    teacher: Teacher,
    recipe: Recipe,
    seed: int,
    dataset: Dataset,
    device: str,
    on_epoch: OnEpoch | None,
) -> tuple[Member, list[dict[str, float]]]:
    spec, rows = dataset.spec, dataset.splits["train"]
    if MODELS.traits(teacher.family)["network"]:
        network = build_network(teacher, spec, seed)
        history = fit_classifier(network, dataset, recipe, seed, device, on_epoch, f"teacher {name!r}")
        save_network(network, work / "model.safetensors")
        return NetworkMember(network, device), history
    built = MODELS[teacher.family](spec, **teacher.options)
    if isinstance(built, GivenLogits):
        np.savez(work / "given.npz", logits=built.logits)
        return GivenMember(built), []
    if "random_state" in inspect.signature(type(built)).parameters and built.random_state is None:
        built.set_params(random_state=seed)
    labels = dataset.labels("train")
    built.fit(dataset.inputs[rows].reshape(len(rows), -1), labels)
    joblib.dump(built, work / "model.joblib")
    return EstimatorMember(built), []


def fit_classifier(
    network: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    device: str,
    on_epoch: OnEpoch | None,
    what: str,
    validation: str = "val_ensemble",
    validate_at: Container[int] | None = None,
) -> list[dict[str, float]]:
    """Trains `network` on the labels of train by cross-entropy, with figures on `validation` after epochs."""
    labels = torch.from_numpy(dataset.labels("train")).to(device)
    loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    return fit(
        network,
        Inputs(dataset.inputs, dataset.splits["train"], device),
        lambda logits, places: loss(logits, labels[places.to(labels.device)]),
        recipe,
        seed=seed,
        device=device,
        validate=validator(network, dataset, validation, device),
        validate_at=validate_at,
        on_epoch=on_epoch,
        what=what,
    )


def validator(network: nn.Module, dataset: Dataset, split: str, device: str) -> Any:
    """A function that measures `network` on a validation split: ``{split}/accuracy`` and ``{split}/nll``."""
    assert split != "test"
    inputs, labels = dataset.inputs[dataset.splits[split]], dataset.labels(split)

    def measure() -> dict[str, float]:
        log_probs = log_softmax(predict(network, inputs, device=device).astype(np.float64), axis=-1)
        nll = -log_probs[np.arange(len(labels)), labels].mean()
        return {f"{split}/accuracy": float((log_probs.argmax(-1) == labels).mean()), f"{split}/nll": float(nll)}

    return measure


def save_network(network: nn.Module, path: Path) -> None:
    """Weights and buffers as safetensors."""
    temporary = path.with_name(path.name + ".tmp")
    save_file({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}, temporary)
    temporary.replace(path)


def load_network(model: dict[str, Any], spec: InputSpec, path: Path) -> nn.Module:
    """The network that `save_network` kept, in evaluation mode.

    Args:
        model: Its config, dumped. Files that it started from are not needed any more.
        spec: What it is fed.
        path: The weights.
    """
    own = {k: v for k, v in model.items() if k not in ("family", "name", "copies", "recipe", "checkpoint")}
    network: nn.Module = MODELS[model["family"]](
        spec, **{**own, **({"pretrained": False} if "pretrained" in own else {})}
    )
    network.load_state_dict(load_file(path))
    return network.eval()


def load_member(handle: Handle, spec: InputSpec, device: str = "cpu") -> Member:
    """The member that a `teachers` stage directory holds."""
    if handle.file("given.npz").exists():
        with np.load(handle.file("given.npz")) as arrays:
            return GivenMember(GivenLogits(arrays["logits"]))
    if handle.file("model.joblib").exists():
        return EstimatorMember(joblib.load(handle.file("model.joblib")))
    model = handle.json("member.json")["model"]
    return NetworkMember(load_network(model, spec, handle.file("model.safetensors")), device)
