"""Where a process computes, and how numbers get there."""

from __future__ import annotations

import os

import numpy as np
import torch

from distillery.errors import InputError

VARIABLE = "DISTILLERY_DEVICE"
VISIBLE = "CUDA_VISIBLE_DEVICES"
AUTO = "auto"
"""As a device: the process that computes decides, by its own environment and its own GPUs."""


def resolved(device: str = AUTO) -> str:
    """The device to compute on: `device` itself; for `AUTO` the one that the environment names, else a GPU, else cpu.

    Raises:
        InputError: The environment names something that torch does not know.
    """
    if device != AUTO:
        return device

    named = os.environ.get(VARIABLE) or AUTO
    if named == AUTO:
        # Counted without opening one: CUDA_VISIBLE_DEVICES may be set after this, but not after that.
        return "cuda" if torch.cuda.device_count() else "cpu"

    try:
        torch.device(named)
    except RuntimeError as error:
        raise InputError(f"{VARIABLE}: expected auto, cpu, cuda, cuda:1 or the like, got {named!r}") from error
    return named


def visible_gpus(device: str) -> list[str]:
    """The GPUs that ``cuda`` may be, as CUDA_VISIBLE_DEVICES names them; none for any other device."""
    if device != "cuda":
        return []
    named = os.environ.get(VISIBLE)
    # Counted without a context: one that is open sees the GPUs that there were when it was opened.
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


def is_cuda(device: str | torch.device) -> bool:
    """Whether a device is a GPU of CUDA's."""
    return torch.device(device).type == "cuda"


def sent(values: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """The values on a device. What goes to a GPU is pinned first, so that this process does not wait for the copy."""
    if is_cuda(device) and values.device.type == "cpu":
        pinned = values if values.is_pinned() else values.pin_memory()
        return pinned.to(device, non_blocking=True)
    return values.to(device)


def generator(seed: int, purpose: int, device: str = "cpu") -> torch.Generator:
    """A generator of a device's own numbers: those of a GPU are others than those of a CPU with the same seed."""
    state = np.random.SeedSequence((seed, purpose)).generate_state(1)
    return torch.Generator(device).manual_seed(int(state[0]))
