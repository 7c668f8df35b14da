"""Training as one plain function. Teacher, baseline and student differ only in their objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from distillery.config import Recipe
from distillery.training import augment

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits [B, C], items [B]) -> scalar loss."""

OnEpoch = Callable[[int, dict[str, float]], None]

RESIDENT_BYTES = 2 << 30
"""Training inputs up to this size are copied into memory (or onto the device) once."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs a block with torch's global generators at `seed`, and puts them back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


class Batches(Protocol):
    """What a network is trained on. An item is whatever the objective can look up by its number."""

    def __len__(self) -> int:
        """Items in an epoch."""

    def order(self, epoch: int, generator: torch.Generator) -> torch.Tensor:
        """Items of an epoch, in the order of training."""

    def take(self, items: torch.Tensor) -> torch.Tensor:
        """Their inputs, float [B, ...]."""


class Inputs:
    """The rows of one split; item = place in the split. Kept on the device where they fit, else read by the batch."""

    def __init__(self, inputs: np.ndarray, rows: np.ndarray, device: str) -> None:
        self._device, self._source, self._rows = device, inputs, rows
        size = len(rows) * inputs[:1].nbytes
        self._resident = torch.from_numpy(inputs[rows]).to(device) if size <= RESIDENT_BYTES else None

    def __len__(self) -> int:
        return len(self._rows)

    def order(self, epoch: int, generator: torch.Generator) -> torch.Tensor:
        """All places, shuffled."""
        return torch.randperm(len(self), generator=generator)

    def take(self, items: torch.Tensor) -> torch.Tensor:
        """Float batch [B, ...] of the given places."""
        if self._resident is not None:
            return self._resident[items.to(self._device)].float()
        return torch.from_numpy(self._source[self._rows[items.cpu().numpy()]]).to(self._device).float()


def fit(
    network: nn.Module,
    inputs: Batches,
    objective: Objective,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "cpu",
    validate: Callable[[], dict[str, float]] | None = None,
    validate_at: Container[int] | None = None,
    on_epoch: OnEpoch | None = None,
    what: str = "training",
) -> list[dict[str, float]]:
    """Trains `network` in place; the result is one record per epoch (loss, seconds, validation figures).

    AdamW with decoupled weight decay on matrices and kernels only, linear warm-up, cosine to zero. Batches are drawn
    without replacement; the rows that do not fill the last batch of an epoch wait for the next one.

    Args:
        network: Float inputs [B, ...] -> logits [B, C].
        inputs: What to train on, and in which order.
        objective: The loss of a batch.
        recipe: Epochs, batch size, learning rate, ...
        seed: Of the order of rows, the augmentation and dropout.
        device: Where to train.
        validate: Figures to record after an epoch.
        validate_at: The epochs after which to do so; None for all.
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
            losses = []
            for items in inputs.order(epoch, generator)[: steps * batch].split(batch):
                loss = objective(network(_augmented(inputs.take(items), recipe, generator)), items)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if recipe.clip_norm is not None:
                    nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
                optimizer.step()
                schedule.step()
                losses.append(loss.detach())
            record = {"train_loss": _mean(losses, what, epoch), "seconds": time.perf_counter() - began}
            if validate is not None and (validate_at is None or epoch in validate_at):
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
