"""One network of any kind, trained by torch's own means."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from distillery.config.experiment import Recipe
from distillery.devices import is_cuda
from distillery.ops.encoded_rows import Encoded
from distillery.training import ranks
from distillery.training.answers import MOST_ROWS, in_batches
from distillery.training.feed import Inputs
from distillery.training.objectives import Given, Objective
from distillery.training.stacked import Draw

log = logging.getLogger(__name__)


class Alone:
    """A network with the same face as a `Stack` of one.

    Args:
        network: The whole of it.
        trained: The part that is shown batches: what comes after a normalisation that they have had already.
        recipe: How it is trained.
        batch: Rows of a step, of all processes.
    """

    def __init__(self, network: nn.Module, trained: nn.Module, recipe: Recipe, batch: int) -> None:
        self.network, self._trained, self._recipe, self._batch = network, trained, recipe, batch
        self._most = 1 << 30  # rows that go through the network at once
        self._cast: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        self._channels_last = False
        if is_cuda(next(network.parameters()).device):
            self._channels_last = all(p.ndim != 5 for p in network.parameters())  # torch knows no such format for these
            if self._channels_last:
                network.to(memory_format=torch.channels_last)
            self._cast = torch.autocast("cuda", torch.bfloat16)
        self._spread: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        self._has_batch_statistics = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
        if ranks.size() > 1 and self._has_batch_statistics:
            self._spread = ranks.WholeBatch()
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=recipe.lr, fused=True)

    rows_dim = 1

    def laid_out(self, rows: torch.Tensor, last: float = 1.0) -> torch.Tensor:
        """Inputs [1, n, ...] as they are; images as the layers of a network on a GPU want them in memory."""
        if self._channels_last and rows.ndim == 5:
            return rows[0].to(memory_format=torch.channels_last)[None]
        return rows

    def step(
        self, rows: torch.Tensor, objective: Objective, given: Given, factor: float, draw: Draw, look: bool
    ) -> torch.Tensor | None:
        """One step; losses [1]. See `Stack.step`."""
        if not self.network.training:
            self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = factor * self._recipe.lr
        losses = self._gradients(rows[0], objective, given)
        if ranks.size() > 1:
            ranks.add_up([losses, *(p.grad for p in self.network.parameters() if p.grad is not None)])
        if self._recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self._recipe.clip_norm)
        self.optimizer.step()
        return losses if look else None

    def _gradients(self, rows: torch.Tensor, objective: Objective, given: Given) -> torch.Tensor:
        """Losses [1] of a batch, their gradient left on the parameters; in parts where the device's memory is short."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                starts = range(0, len(rows), self._most)
                return torch.stack([self._part(rows, objective, given, start) for start in starts]).sum(0)
            except torch.OutOfMemoryError:
                # Another process may wait for this one's batch statistics already: there is no second try.
                if min(self._most, len(rows)) == 1 or isinstance(self._spread, ranks.WholeBatch):
                    raise
            self._most = -(-min(self._most, len(rows)) // 2)
            log.warning(
                "memory: the device cannot hold a batch of %d, it goes through the network %d rows at a time%s",
                len(rows),
                self._most,
                "; its batch statistics are those of so many rows" if self._has_batch_statistics else "",
            )

    def _part(self, rows: torch.Tensor, objective: Objective, given: Given, start: int) -> torch.Tensor:
        """Some rows' share of the losses, after their backward pass."""
        mine = rows[start : start + self._most]
        with self._cast, self._spread:
            logits = self._trained(mine)
        losses = objective.losses(logits.float()[None], tuple(g[:, start : start + self._most] for g in given))
        share = losses * (len(mine) / self._batch)
        share.sum().backward()
        return share.detach()

    def predict(self, inputs: Inputs) -> np.ndarray:
        """Logits float32 [1, N, C] of the encoded rows of all processes, of which `inputs` are this one's."""
        device = str(next(self.network.parameters()).device)
        return ranks.joined(_predicted(self.network, inputs, device, MOST_ROWS))[None]

    @property
    def record(self) -> dict[str, float]:
        """What to say of an epoch in the history: that batches went in parts, since the device's memory was short."""
        return {"rows_at_once": float(self._most)} if self._most < self._batch else {}

    def keep(self, places: Sequence[int]) -> None:
        """The one network stays."""

    def finish(self) -> None:
        """Nothing: the network is trained in place."""


def predict(
    network: nn.Module,
    inputs: Encoded,
    rows: np.ndarray | None = None,
    *,
    device: str = "cpu",
    batch_size: int = MOST_ROWS,
) -> np.ndarray:
    """Logits float32 [N, C] of encoded rows [N, ...], the network in evaluation mode.

    Args:
        network: Float inputs [B, ...] -> logits [B, C]. It stays on the device.
        inputs: Encoded rows, in memory or mapped into it.
        rows: Which of them, and in which order; they are read by the batch. None for all.
        device: Where to compute.
        batch_size: Rows at a time; fewer where they need too much memory.
    """
    chosen = np.arange(len(inputs)) if rows is None else rows
    return _predicted(network, Inputs(inputs, chosen, device, keep=False), device, batch_size)


def _predicted(network: nn.Module, inputs: Inputs, device: str, most: int) -> np.ndarray:
    # It is moved before the inference mode begins: parameters that are made inside could not be trained any more.
    network.to(device).eval()
    with torch.inference_mode():
        return in_batches(network, inputs, device, most)
