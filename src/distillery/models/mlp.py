"""Multi-layer perceptrons."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from distillery.models import MODELS, InputSpec


@MODELS.register("mlp", kinds=("table", "image"), network=True)
def mlp(
    spec: InputSpec,
    *,
    hidden: list[int],
    dropout: float = 0.0,
    activation: Literal["relu", "gelu", "silu"] = "relu",
) -> nn.Module:
    """Linear layers of the given widths with an activation between them. Images are flattened.

    Args:
        spec: Shape of the inputs.
        hidden: Widths of the hidden layers.
        dropout: Share of hidden activations dropped in training.
        activation: Between the layers.
    """
    act = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}[activation]
    layers: list[nn.Module] = []
    width = math.prod(spec.shape)
    if spec.kind == "image":
        layers += [nn.Flatten(), nn.BatchNorm1d(width)]
    for wide in hidden:
        layers += [nn.Linear(width, wide), act()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = wide
    return nn.Sequential(*layers, nn.Linear(width, spec.classes))
