"""Networks from a config: built, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from distillery.config.experiment import Model
from distillery.models import MODELS, InputSpec
from distillery.store import fingerprint
from distillery.training.state import seeded

NOT_BUILT_FROM = ("name", "copies", "recipe", "checkpoint", "code")


def derive_seed(*parts: Any) -> int:
    """A seed of 31 bits from anything that can be fingerprinted."""
    return int(fingerprint(*parts)[:8], 16) >> 1


def build_network(model: Model, spec: InputSpec, seed: int) -> nn.Module:
    """A fresh network with the initial weights of `seed`."""
    with seeded(seed):
        network: nn.Module = MODELS[model.family](spec, **model.options)
    return network


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
    own = {k: v for k, v in model.items() if k not in ("family", *NOT_BUILT_FROM)}
    network: nn.Module = MODELS[model["family"]](
        spec, **{**own, **({"pretrained": False} if "pretrained" in own else {})}
    )
    network.load_state_dict(load_file(path))
    return network.eval()
