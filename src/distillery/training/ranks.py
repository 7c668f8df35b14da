"""What a process does when several train one network together: its own rows of each batch, and sums over all of them.

Without others every function here is that of the one rank out of one: all rows, and nothing to add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.modules._functions import SyncBatchNorm
from torch.overrides import TorchFunctionMode

from distillery.errors import InputError


def size() -> int:
    """How many processes train this network."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is."""
    return dist.get_rank() if size() > 1 else 0


def own(count: int) -> slice:
    """This process's part of so many rows.

    Raises:
        InputError: There is not a row for each process.
    """
    if count < size():
        raise InputError(f"expected a row for each of {size()} processes that train together, got {count} rows")
    return slice(count * rank() // size(), count * (rank() + 1) // size())


def own_places(count: int, batch: int) -> torch.Tensor | None:
    """Places of this process's rows in whole batches, of `count` rows in all; None: all of them."""
    return None if size() == 1 else torch.arange(count).view(-1, batch)[:, own(batch)].flatten()


def add_up(tensors: Sequence[torch.Tensor]) -> None:
    """Makes each of these the sum over all processes, in place."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(total.view(tensor.shape))


def joined(part: np.ndarray) -> np.ndarray:
    """The parts [n, ...] of all processes as one array [N, ...]."""
    parts: list[Any] = [part] * size()
    if size() > 1:
        dist.all_gather_object(parts, part)
    return np.concatenate(parts)


class WholeBatch(TorchFunctionMode):
    """While it is entered, batch normalisation in training takes its statistics over the rows of all processes.

    It looks at the function and not at the modules, since timm's and a user's own ones are of many classes.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The result of a function of torch's."""
        options = dict(kwargs or {})
        if func is functional.batch_norm and options.pop("training"):
            return _batch_norm(*args, **options)
        return func(*args, **(kwargs or {}))


def _batch_norm(
    rows: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    momentum: float,
    eps: float,
) -> torch.Tensor:
    if rows.is_cuda:
        group = dist.group.WORLD
        found: torch.Tensor = SyncBatchNorm.apply(
            rows, weight, bias, running_mean, running_var, eps, momentum, group, size()
        )
        return found
    others, shape = [d for d in range(rows.ndim) if d != 1], (1, -1, *[1] * (rows.ndim - 2))
    count = _Sum.apply(torch.tensor(float(rows.numel() // rows.shape[1])))
    mean = _Sum.apply(rows.sum(others)) / count
    centred = rows - mean.view(shape)
    var = _Sum.apply(centred.square().sum(others)) / count
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.detach(), momentum)
        running_var.lerp_(var.detach() * count / (count - 1), momentum)
    scaled = centred * (var + eps).rsqrt().view(shape)
    scaled = scaled if weight is None else scaled * weight.view(shape)
    return scaled if bias is None else scaled + bias.view(shape)


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, mine: torch.Tensor) -> torch.Tensor:
        total = mine.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
