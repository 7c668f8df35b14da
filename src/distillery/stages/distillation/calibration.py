"""One temperature for a trained student: distilled networks are seldom as sure as they should be.

Soft targets leave a student less sure than labels would, more so the higher their temperature; and students exaggerate
what they learned (arXiv 2301.12923). One number, fitted on validation rows, mends both without changing any answer.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from distillery.ops.pooling import fit_temperature

SPREAD = 0.3  # of log T around 0: some hundred rows that are nearly all right say little about how sure to be


class Calibrated(nn.Module):
    """A network whose logits are divided by a fixed temperature."""

    temperature: torch.Tensor

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of inputs [B, ...]."""
        return self.network(rows) / self.temperature


def temperature_of(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """The temperature that fits these rows best, kept near 1 where there are few of them."""
    return fit_temperature(logits_NC, labels_N, SPREAD)
