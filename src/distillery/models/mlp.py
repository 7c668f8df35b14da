"""Multi-layer perceptrons."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import nn

from distillery.models import MODELS, InputSpec
from distillery.ops.quantile_bin_edges import quantile_bin_edges


class PiecewiseLinear(nn.Module):
    """Adds to each row, for every bin of every number, how far the number has come through the bin: 0 to 1.

    Gorishniy, Rubachev and Babenko 2022, "On Embeddings for Numerical Features in Tabular Deep Learning" (arXiv
    2203.05556). The edges are values of the training rows; nothing is learned.
    """

    low: torch.Tensor
    scale: torch.Tensor
    feature: torch.Tensor

    def __init__(self, spec: InputSpec, bins: int) -> None:
        super().__init__()
        low, scale, feature = [], [], []
        for index, points in enumerate(spec.numbers):
            values, counts = np.array([v for v, _ in points]), np.array([c for _, c in points])
            edges = values[quantile_bin_edges(values, counts, bins + 1)] if len(values) else values
            low += edges[:-1].tolist()
            scale += (1 / np.diff(edges)).tolist()
            feature += [index] * max(0, len(edges) - 1)
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("feature", torch.tensor(feature, dtype=torch.int64))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [B, features] -> [B, features + bins]."""
        progress = (rows.index_select(1, self.feature) - self.low) * self.scale
        return torch.cat([rows, progress.clamp(0, 1)], dim=1)


@MODELS.register("mlp", kinds=("table", "image"), network=True, stacks=("table",))
def mlp(
    spec: InputSpec,
    *,
    hidden: list[int],
    dropout: float = 0.0,
    activation: Literal["relu", "gelu", "silu"] = "relu",
    bins: int = 0,
) -> nn.Module:
    """Linear layers of the given widths with an activation between them. Images are flattened.

    Args:
        spec: Shape of the inputs.
        hidden: Widths of the hidden layers.
        dropout: Share of hidden activations dropped in training.
        activation: Between the layers.
        bins: Tables: most bins per number in a piecewise linear encoding, for columns with spikes and long tails.
    """
    act = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}[activation]
    layers: list[nn.Module] = []
    width = math.prod(spec.shape)
    if spec.kind == "image":
        layers += [nn.Flatten(), nn.BatchNorm1d(width)]
    elif bins:
        encoding = PiecewiseLinear(spec, bins)
        layers.append(encoding)
        width += len(encoding.low)
    for wide in hidden:
        layers += [nn.Linear(width, wide), act()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = wide
    return nn.Sequential(*layers, nn.Linear(width, spec.classes))
