"""Which networks can be stacked: multi-layer perceptrons, whose gradient can be written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

aten: Any = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """`forward` of what comes in; `backward` of (gradient, what came in)."""

    forward: Callable[[torch.Tensor], torch.Tensor]
    backward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    # in place: where the result is above zero, so was what came in
    nn.ReLU: Activation(
        lambda x: x.clamp_(min=0), lambda g, x: aten.threshold_backward.grad_input(g, x, 0, grad_input=g)
    ),
    nn.GELU: Activation(nn.functional.gelu, lambda g, x: aten.gelu_backward(g, x)),
    nn.SiLU: Activation(nn.functional.silu, lambda g, x: aten.silu_backward(g, x)),
}


@dataclass(frozen=True)
class Hidden:
    """What follows a hidden layer."""

    activation: Activation
    dropout: float


def plan_of(network: nn.Module) -> tuple[list[nn.Module], list[nn.Linear], list[Hidden]] | None:
    """(what encodes the inputs, linear layers, what follows each but the last), if the network is made of just that."""
    if not isinstance(network, nn.Sequential):
        return None
    layers = list(network)
    first = next((i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)), None)
    if first is None or any(list(m.parameters()) or isinstance(m, nn.Flatten) for m in layers[:first]):
        return None
    linear: list[nn.Linear] = []
    hidden: list[Hidden] = []
    for layer in layers[first:]:
        if isinstance(layer, nn.Linear) and layer.bias is not None and len(linear) == len(hidden):
            linear.append(layer)
        elif type(layer) in ACTIVATIONS and len(hidden) < len(linear):
            hidden.append(Hidden(ACTIVATIONS[type(layer)], 0.0))
        elif isinstance(layer, nn.Dropout) and hidden and len(hidden) == len(linear):
            hidden[-1] = Hidden(hidden[-1].activation, layer.p)
        else:
            return None
    return (layers[:first], linear, hidden) if len(linear) == len(hidden) + 1 else None


def stackable(networks: Sequence[nn.Module]) -> bool:
    """Whether the networks are of one shape that can be stacked."""
    plans = [plan_of(network) for network in networks]
    if plans[0] is None:
        return False
    shapes = {None if p is None else (str(networks[i]), len(p[1])) for i, p in enumerate(plans)}
    return len(shapes) == 1
