"""A pretended CUDA for machines that have none: tensors that say they are on cuda:0, and what CUDA would say to them.

The numbers lie on the CPU, so that values, gradients and training are real. What CUDA refuses is refused: tensors of
two devices in one call, numpy's view of a GPU's tensor, a generator or an index of another device. Every time that the
library would wait for the GPU is counted, by the line that waits.

It stands above torch's functions and sees nothing below them: kernels that CUDA lacks, memory, speed, or several GPUs.
C++ code that asks a tensor for its device is told the CPU: so torch's clipping of gradients seems to wait for a copy.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda", 0)
ANYWHERE = {"to", "cpu", "copy_", "type_as", "__getitem__", "__setitem__", "__get__", "__set__"}
"""Functions that may be given tensors of two devices."""

WAITING = {
    "item", "tolist", "__bool__", "__float__", "__int__", "__index__", "__contains__", "is_nonzero",
    "nonzero", "masked_select", "unique", "equal", "allclose", "cpu",
}  # fmt: skip
"""Functions whose result needs all that the GPU was given to do."""

TWO_DEVICES = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
OTHER_GENERATOR = "Expected a '{}' device type for generator but found '{}'"
OTHER_INDEX = "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
NO_NUMPY = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."


class OnCuda(torch.Tensor):
    """A tensor that says it is on cuda:0."""


class CudaGenerator(torch.Generator):
    """A generator that is said to be there."""


class AnyGenerator(torch.Generator):
    """What makes generators: `torch.Generator` where no CUDA is pretended."""

    def __new__(cls, device: Any = "cpu") -> Any:
        """A generator for a device."""
        return CudaGenerator() if _kind(device) == "cuda" else cls.__base__(device)


@dataclass
class Seen:
    """What was seen while CUDA was pretended: how often each line of the library did it, as ``fit.py:12``.

    Attributes:
        waits: Python waited for the GPU: it wanted a value, or a copy on the CPU.
        pageable: It copied to the GPU from memory that is not pinned, or without `non_blocking`.
        pinned: It copied from pinned memory, and went on.
    """

    waits: Counter[str] = field(default_factory=Counter)
    pageable: Counter[str] = field(default_factory=Counter)
    pinned: Counter[str] = field(default_factory=Counter)


@contextmanager
def pretended_cuda(*, autocast: bool = False, free_bytes: int = 8 << 30) -> Iterator[Seen]:
    """Pretends that there is one GPU, ``cuda``, and gives what is seen meanwhile.

    Args:
        autocast: Whether autocast makes bfloat16 of what it would on a GPU; without it, numbers equal a CPU's.
        free_bytes: What the GPU says is free.
    """
    seen = Seen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "to", _module_to(nn.Module.to))
        patch.setattr(nn.Module, "cpu", lambda module: module.to("cpu"))
        patch.setattr(torch.Tensor, "pin_memory", _pinned)
        patch.setattr(torch.Tensor, "is_pinned", _is_pinned)
        patch.setattr(torch, "Generator", AnyGenerator)
        patch.setattr(torch, "autocast", _on_the_cpu(torch.autocast) if autocast else lambda *_, **__: nullcontext())
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "mem_get_info", lambda _device=None: (free_bytes, free_bytes))
        with _Pretending(seen):
            yield seen


class _Pretending(TorchFunctionMode):
    """Runs every function of torch's on the CPU, once it has asked whether CUDA would."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The function's result, on the device that CUDA would leave it on."""
        options = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        given = list(_tensors([args, options]))
        on_cuda = any(isinstance(tensor, OnCuda) for tensor in given)
        if on_cuda and name == "__get__":
            said = _property(func)
            if said is not None:
                return said
        if on_cuda and name in ("numpy", "__array__"):
            raise TypeError(NO_NUMPY)

        target = _target(name, args, options)
        self._check(name, args, options, given, target)
        self._count(name, args, options, on_cuda, target)
        args, options = _without_device(name, args, options)
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **options)
            goes = target == "cuda" or (on_cuda and target is None and name != "cpu")
            return _changed(result, OnCuda if goes else torch.Tensor, copied=target == "cuda" and not on_cuda)

    def _check(self, name: str, args: Any, options: dict[str, Any], given: list[torch.Tensor], target: Any) -> None:
        """Raises what CUDA raises."""
        here, there = (
            [t for t in given if isinstance(t, OnCuda) == on_cuda and (on_cuda or t.ndim)] for on_cuda in (False, True)
        )
        if name == "__getitem__" and not isinstance(args[0], OnCuda) and there:
            raise RuntimeError(OTHER_INDEX)
        if here and there and name not in ANYWHERE:
            raise RuntimeError(f"{TWO_DEVICES} (in {name})")
        drawn = options.get("generator")
        if drawn is not None:
            wanted = target or ("cuda" if there else "cpu")
            found = "cuda" if isinstance(drawn, CudaGenerator) else "cpu"
            if wanted != found:
                raise RuntimeError(OTHER_GENERATOR.format(wanted, found))

    def _count(self, name: str, args: Any, options: dict[str, Any], on_cuda: bool, target: Any) -> None:
        """Notes who waits, and who copies."""
        by_mask = name == "__getitem__" and any(t.dtype == torch.bool for t in _tensors([args[1]]))
        if on_cuda and (name in WAITING or by_mask or target == "cpu"):
            self._seen.waits[_line()] += 1
        if target == "cuda" and not on_cuda and name == "to":
            free = options.get("non_blocking", False) and args[0].is_pinned()
            (self._seen.pinned if free else self._seen.pageable)[_line()] += 1


def _line() -> str:
    """The line of the library that has called."""
    frame = sys._getframe(1)
    while frame is not None and "/src/distillery/" not in frame.f_code.co_filename:
        frame = frame.f_back
    return "elsewhere" if frame is None else f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _property(func: Callable[..., Any]) -> Any:
    """What a tensor on cuda:0 says of its device; None of other properties."""
    return {"device": CUDA, "is_cuda": True, "is_cpu": False}.get(getattr(func.__self__, "__name__", ""))


def _kind(device: Any) -> str | None:
    return None if device is None else torch.device(device).type


def _target(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> str | None:
    """The kind of device that the result is asked to be on; None where nothing is asked."""
    if options.get("device") is not None:
        return _kind(options["device"])
    if name != "to":
        return None
    named = [_kind(value) for value in args[1:] if isinstance(value, str | torch.device)]
    like = ["cuda" if isinstance(value, OnCuda) else "cpu" for value in args[1:] if isinstance(value, torch.Tensor)]
    return next(iter(named + like), None)


def _without_device(name: str, args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The arguments for the CPU, where the numbers are."""
    if options.get("device") is not None:
        options = {**options, "device": "cpu"}
    if name == "to":
        args = tuple("cpu" if isinstance(value, str | torch.device) else value for value in args)
    return args, options


def _changed(result: Any, kind: type[torch.Tensor], copied: bool) -> Any:
    """The result with its tensors said to be on a device; a copy where one device would have sent it to the other."""
    if isinstance(result, torch.Tensor):
        if isinstance(result, OnCuda) == (kind is OnCuda):
            return result
        return (result.clone() if copied else result).as_subclass(kind)
    if isinstance(result, tuple | list) and list(_tensors(result)):
        return type(result)([_changed(part, kind, copied) for part in result])
    return result


def _module_to(before: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """`nn.Module.to`, which gives a module other parameters and buffers where they change their device."""

    def to(module: nn.Module, *args: Any, **options: Any) -> nn.Module:
        named = [value for value in (*args, options.get("device")) if isinstance(value, str | torch.device)]
        if not named:
            return before(module, *args, **options)
        kind = OnCuda if _kind(named[0]) == "cuda" else torch.Tensor
        with torch._C.DisableTorchFunctionSubclass():
            for each in module.modules():
                for name, value in each._parameters.items():
                    if value is not None and isinstance(value, OnCuda) != (kind is OnCuda):
                        moved = value.detach().clone().as_subclass(kind)
                        each._parameters[name] = nn.Parameter(moved, value.requires_grad)
                for name, value in each._buffers.items():
                    if value is not None and isinstance(value, OnCuda) != (kind is OnCuda):
                        each._buffers[name] = value.detach().clone().as_subclass(kind)
        return module

    return to


def _pinned(tensor: torch.Tensor) -> torch.Tensor:
    pinned = tensor.clone()
    pinned.is_said_to_be_pinned = True  # type: ignore[attr-defined]
    return pinned


def _is_pinned(tensor: torch.Tensor) -> bool:
    return getattr(tensor, "is_said_to_be_pinned", False)


def _on_the_cpu(before: Any) -> Any:
    """Autocast on the CPU where it is asked for on CUDA."""

    def autocast(device_type: str, dtype: Any = None, **options: Any) -> Any:
        return before("cpu" if device_type == "cuda" else device_type, dtype, **options)

    return autocast
