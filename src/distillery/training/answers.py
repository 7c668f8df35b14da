"""Logits of many rows, in batches that the memory holds. N rows, C classes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from distillery.devices import sent
from distillery.memory import working_bytes
from distillery.training.feed import Inputs

MOST_ROWS = 1024
"""That go through a network at a time, whatever the memory."""

TRIED_ROWS = 2
"""On which it is seen how much memory a row takes; a network of a user's own may not take one row alone."""

log = logging.getLogger(__name__)


def in_batches(
    forward: Callable[[torch.Tensor], torch.Tensor], inputs: Inputs, device: str, most: int = MOST_ROWS
) -> np.ndarray:
    """Logits float32 [..., N, C] of all rows of `inputs`, in their order.

    A batch is as large as the memory allows (`working_bytes`), and half as large where the device refuses it.

    Args:
        forward: Logits [..., B, C] of float rows [B, ...] on the device.
        inputs: The rows.
        device: Where to compute.
        most: Rows of a batch, at most.

    Raises:
        torch.OutOfMemoryError: The device cannot hold one row.
    """
    size = rows_that_fit(forward, inputs, device, most)
    logits = np.empty((len(inputs), 0), np.float32)
    start = 0
    while start < len(inputs):
        stop = min(start + size, len(inputs))
        part = _tried(forward, inputs, device, start, stop)
        if part is None:
            size = -(-(stop - start) // 2)
            log.warning("memory: the device cannot hold %d rows to be predicted, next are %d", stop - start, size)
            continue

        if start == 0:
            # One array for all: small parts that are kept between large tensors let no memory be used again.
            logits = np.empty((*part.shape[:-2], len(inputs), part.shape[-1]), np.float32)
        logits[..., start:stop, :] = part
        start = stop
    return logits


def rows_that_fit(forward: Callable[[torch.Tensor], object], inputs: Inputs, device: str, most: int) -> int:
    """How many rows of `inputs` to predict at a time, by what the largest call takes and gives for a few of them."""
    if len(inputs) <= TRIED_ROWS:
        return most

    rows = sent(inputs.part(0, TRIED_ROWS), device).float()
    try:
        with LargestCall() as seen:
            forward(rows)
    except torch.OutOfMemoryError:
        return 1
    row_bytes = (rows.nbytes + seen.bytes) // len(rows)
    return max(1, min(most, working_bytes(device) // max(1, row_bytes)))


def _tried(
    forward: Callable[[torch.Tensor], torch.Tensor], inputs: Inputs, device: str, start: int, stop: int
) -> np.ndarray | None:
    """Logits of some rows; None where the device's memory is too short for them and there are several."""
    try:
        rows = sent(inputs.part(start, stop), device).float()
        return forward(rows).float().cpu().numpy()
    except torch.OutOfMemoryError:
        if stop - start == 1:
            raise
        return None


class LargestCall(TorchFunctionMode):
    """While it is entered, it sees every function of torch's, and keeps the largest sum of what goes in and comes out.

    It looks at the functions and not at the modules, for a network of a user's own need not have any for its largest
    tensor. Parameters do not count: they are there whatever the number of rows.

    Attributes:
        bytes: That sum.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The result of a function of torch's."""
        options = kwargs or {}
        result = func(*args, **options)
        if isinstance(result, torch.Tensor | tuple | list):
            sizes = {id(tensor): tensor.nbytes for tensor in _tensors([args, options, result])}
            self.bytes = max(self.bytes, sum(sizes.values()))
        return result


def _tensors(value: object) -> Iterator[torch.Tensor]:
    """The tensors of nested arguments, without parameters."""
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
