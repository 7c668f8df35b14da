"""Training as one plain function. Teacher, baseline and student differ only in their objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from distillery.config import Augment, Recipe
from distillery.training import augment
from distillery.views import view

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits [B, C], positions in the training split [B]) -> scalar loss."""

OnEpoch = Callable[[int, dict[str, float]], None]

RESIDENT_BYTES = 2 << 30
"""Training inputs up to this size are copied into memory (or onto the device) once."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs a block with torch's global generators at `seed`, and puts them back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


class Inputs:
    """Rows of one split as float batches: kept on the device where they fit, else read batch by batch.

    With `views`, epoch after epoch shows another view of every row; `view` is the number of the current one.
    """

    def __init__(
        self, inputs: np.ndarray, rows: np.ndarray, device: str, views: int = 1, augment: Augment | None = None
    ) -> None:
        self._device = device
        self._source, self._rows = inputs, rows
        self.views, self.view, self._augment = views, 0, augment or Augment()
        size = len(rows) * inputs[:1].nbytes
        self._resident = torch.from_numpy(inputs[rows]).to(device) if size <= RESIDENT_BYTES else None

    def begin_epoch(self, epoch: int) -> None:
        """Shows the view of this epoch (counted from 1)."""
        number = (epoch - 1) % self.views
        if number != self.view:
            self.view = number
            if self._resident is not None:
                shown = view(self._source[self._rows], self._rows, number, self._augment)
                self._resident = torch.from_numpy(shown).to(self._device)

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, positions: torch.Tensor) -> torch.Tensor:
        """Float batch [B, ...] of the given positions within the split."""
        if self._resident is not None:
            return self._resident[positions.to(self._device)].float()
        rows = self._rows[positions.cpu().numpy()]
        shown = view(self._source[rows], rows, self.view, self._augment)
        return torch.from_numpy(shown).to(self._device).float()


def fit(
    network: nn.Module,
    inputs: Inputs,
    objective: Objective,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "cpu",
    validate: Callable[[], dict[str, float]] | None = None,
    on_epoch: OnEpoch | None = None,
    what: str = "training",
) -> list[dict[str, float]]:
    """Trains `network` in place; the result is one record per epoch (loss, seconds, validation figures).

    AdamW with decoupled weight decay on matrices and kernels only, linear warm-up, cosine to zero. Batches are drawn
    without replacement; the rows that do not fill the last batch of an epoch wait for the next one.

    Args:
        network: Float inputs [B, ...] -> logits [B, C].
        inputs: The training rows.
        objective: The loss of a batch.
        recipe: Epochs, batch size, learning rate, ...
        seed: Of the order of rows, the augmentation and dropout.
        device: Where to train.
        validate: Figures to record after an epoch.
        on_epoch: Called after every epoch with its number and record; an exception from it stops the training.
        what: Opens error messages.

    Raises:
        FloatingPointError: The loss became infinite or not a number.
    """
    network.to(device)
    batch = min(recipe.batch_size, len(inputs))
    steps = max(1, len(inputs) // batch)
    optimizer = _optimizer(network, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_cosine(recipe, steps))
    generator = torch.Generator().manual_seed(seed)
    history: list[dict[str, float]] = []
    with seeded(seed):
        for epoch in range(1, recipe.epochs + 1):
            began = time.perf_counter()
            network.train()
            inputs.begin_epoch(epoch)
            losses = []
            for positions in torch.randperm(len(inputs), generator=generator)[: steps * batch].split(batch):
                batch_inputs = inputs.take(positions)
                if inputs.views == 1:
                    batch_inputs = _augmented(batch_inputs, recipe, generator)
                loss = objective(network(batch_inputs), positions)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if recipe.clip_norm is not None:
                    nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
                optimizer.step()
                schedule.step()
                losses.append(loss.detach())
            record = {"train_loss": _mean(losses, what, epoch), "seconds": time.perf_counter() - began}
            if validate is not None:
                record |= validate()
            history.append(record)
            if on_epoch is not None:
                on_epoch(epoch, record)
    if not all(torch.isfinite(p).all() for p in network.parameters()):
        raise FloatingPointError(f"{what}: weights became infinite in the last epoch; a lower lr may help")
    network.eval()
    return history


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=recipe.lr, fused=True)


def _warm_cosine(recipe: Recipe, steps: int) -> Callable[[int], float]:
    total, warm = recipe.epochs * steps, recipe.warmup_epochs * steps

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1.0, total - warm))))

    return factor


def _augmented(batch: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    if recipe.augment.shift:
        batch = augment.shift(batch, recipe.augment.shift, generator)
    if recipe.augment.flip:
        batch = augment.flip(batch, generator)
    if recipe.augment.noise:
        batch = augment.noise(batch, recipe.augment.noise, generator)
    return batch


def _mean(losses: list[torch.Tensor], what: str, epoch: int) -> float:
    values = torch.stack(losses)
    bad = torch.nonzero(~torch.isfinite(values))
    if len(bad):
        step = int(bad[0])
        raise FloatingPointError(
            f"{what}: the loss became {values[step].item()} in epoch {epoch}, step {step + 1}; a lower lr may help"
        )
    return float(values.mean())


@torch.inference_mode()
def predict(network: nn.Module, inputs: np.ndarray, *, device: str = "cpu", batch_size: int = 1024) -> np.ndarray:
    """Logits float32 [N, C] of encoded rows [N, ...], the network in evaluation mode."""
    network.to(device).eval()
    parts = [
        network(torch.from_numpy(inputs[start : start + batch_size]).to(device).float()).float().cpu().numpy()
        for start in range(0, len(inputs), batch_size)
    ]
    return np.concatenate(parts)
