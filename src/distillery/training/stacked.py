"""Many small networks of one shape as one: their matrices lie on top of each other, and so do their products.

A small network is a few microseconds of arithmetic inside a millisecond of calls. Here K of them share the calls: each
layer is one batched product, and forward, backward and update are written out, without a graph. The batch is the
innermost dimension, [K, features, B], so that the rows of a batch fill the vector units whatever the layers' widths.

K networks, B rows, F features, H hidden units, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from distillery.config.experiment import Recipe
from distillery.training.answers import in_batches
from distillery.training.feed import Inputs
from distillery.training.objectives import Given, Objective
from distillery.training.stackable import plan_of

Draw = Callable[[tuple[int, ...]], torch.Tensor]

fused_adamw: Any = torch._fused_adamw_  # what torch.optim.AdamW calls, after half as long again of looking at arguments


class Stack:
    """K multi-layer perceptrons of one shape that train together with AdamW, each with its own settings.

    AdamW's fused kernel knows one learning rate for all weights. But its update does not depend on the scale of the
    gradient: a weight that is kept divided by its network's learning rate takes, with rate 1, the step that the weight
    itself would take with its own. So `_scaled` is what the optimizer moves, and the weights are `_scaled` · rate.
    """

    def __init__(self, networks: Sequence[nn.Module], recipes: Sequence[Recipe], device: str) -> None:
        plans = [plan for plan in map(plan_of, networks) if plan is not None]
        self._encoding = nn.Sequential(*plans[0][0]).to(device).eval()
        self._hidden = plans[0][2]
        self._networks = list(networks)
        self._linear = [plan[1] for plan in plans]
        self._clip_norm, self._device = recipes[0].clip_norm, device
        layers = list(zip(*self._linear, strict=True))
        self._sizes = [(mine[0].out_features, mine[0].in_features) for mine in layers]
        count = len(networks) * sum(out * (wide + 1) for out, wide in self._sizes)
        rates, decays, weights = (torch.empty(count, device=device) for _ in range(3))
        own_rates, own_decays = (
            torch.tensor([getattr(r, name) for r in recipes], device=device)[:, None, None]
            for name in ("lr", "weight_decay")
        )
        for pair, rate, decay, mine in zip(*map(self._pairs, (weights, rates, decays)), layers, strict=True):
            pair[0].copy_(torch.stack([layer.weight.detach() for layer in mine]))
            pair[1].copy_(torch.stack([layer.bias.detach()[:, None] for layer in mine]))
            rate[0].copy_(own_rates.expand_as(rate[0]))
            rate[1].copy_(own_rates.expand_as(rate[1]))
            decay[0].copy_((own_rates * own_decays).expand_as(decay[0]))
            decay[1].zero_()
        self._count = torch.tensor(0.0, device=device)
        self._open([weights, weights / rates, *(torch.zeros_like(weights) for _ in range(2)), rates, decays])

    def __len__(self) -> int:
        return len(self._networks)

    @property
    def rows_dim(self) -> int:
        """The dimension of `laid_out` inputs along which a batch is cut out."""
        return 1 if len(self._encoding) else 2

    def laid_out(self, rows: torch.Tensor, last: float = 1.0) -> torch.Tensor:
        """Inputs [S, n, features] as `step` wants them: [S, F + 1, n], unless they are to be encoded first.

        The `last` feature stands for the bias: 1 of the inputs, 0 of what is added to them.
        """
        return rows if len(self._encoding) else _with_last(rows, last)

    def _parts(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """A flat vector as it is kept: the first layer [K, out, in + 1], then weights and biases [K, out, 1] of each.

        The bias of the first layer is its last column, so that the product adds it and sums its gradient: the first
        layer is the widest, and passes through memory are what it costs. Weights of the others are kept as
        [K, in, out] where `_turned` says so.
        """
        (out, wide), *others = self._sizes
        shapes = [(out, wide + 1)]
        for out, wide in others:
            shapes += [(wide, out) if _turned(out, wide) else (out, wide), (out, 1)]
        split = flat.split([len(self._networks) * math.prod(shape) for shape in shapes])
        return [part.view(len(self._networks), *shape) for part, shape in zip(split, shapes, strict=True)]

    def _pairs(self, flat: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(weights [K, out, in], biases [K, out, 1]) of each layer, as views of one flat vector."""
        first, *others = self._parts(flat)
        weights = [w.mT if _turned(*s) else w for w, s in zip(others[::2], self._sizes[1:], strict=True)]
        return [(first[..., :-1], first[..., -1:]), *zip(weights, others[1::2], strict=True)]

    def _open(self, state: list[torch.Tensor]) -> None:
        self._state = state
        self._flat, self._scaled, self._mean, self._square, self._rates, self._decays = state
        self._gradient = torch.zeros_like(self._flat)
        self._layers, self._gradients = self._pairs(self._flat), self._pairs(self._gradient)
        self._first, self._first_gradient = self._parts(self._flat)[0], self._parts(self._gradient)[0]
        self._kept: dict[int, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}

    def keep(self, places: Sequence[int]) -> None:
        """Goes on with the networks at these places alone; the others get their weights as they are now."""
        self.finish()
        which = torch.tensor(places, device=self._flat.device)
        state = [torch.cat([part[which].flatten() for part in self._parts(flat)]) for flat in self._state]
        self._networks = [self._networks[i] for i in places]
        self._linear = [self._linear[i] for i in places]
        self._open(state)

    @torch.no_grad()
    def finish(self) -> None:
        """Gives the networks their weights."""
        for (weight, bias), *mine in zip(self._layers, *self._linear, strict=True):
            for number, layer in enumerate(mine):
                layer.weight.copy_(weight[number])
                layer.bias.copy_(bias[number, :, 0])

    def _encoded(self, rows: torch.Tensor) -> torch.Tensor:
        """Inputs [S, F + 1, B] of the first layer."""
        if not len(self._encoding):
            return rows
        return _with_last(self._encoding(rows.flatten(0, 1)).view(*rows.shape[:2], -1), 1.0)

    def _buffers(self, batch: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Space for what every layer makes, and for the gradients between them."""
        if batch not in self._kept:
            shapes = [(len(self), weight.shape[1], batch) for weight, _ in self._layers]
            made, between = ([torch.empty(s, device=self._flat.device) for s in part] for part in (shapes, shapes[:-1]))
            self._kept = {batch: (made, between)}
        return self._kept[batch]

    def _forward(
        self, inputs: torch.Tensor, masks: Sequence[torch.Tensor | None] = ()
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """(inputs of every layer [.., F + 1 or H, B], then the logits [K, C, B]; what came into the activations)."""
        out, _ = self._buffers(inputs.shape[-1])
        passed, raw = [inputs], []
        for number, (weight, bias) in enumerate(self._layers):
            if number == 0:
                made = _product(self._first, inputs, out[0])
            else:
                made = torch.bmm(weight, passed[-1], out=out[number]).add_(bias)
            if number < len(self._hidden):
                raw.append(made)
                made = self._hidden[number].activation.forward(made)
                mask = masks[number] if masks else None
                made = made if mask is None else made * mask
            passed.append(made)
        return passed, raw

    @torch.no_grad()
    def step(
        self, rows: torch.Tensor, objective: Objective, given: Given, factor: float, draw: Draw, look: bool
    ) -> torch.Tensor | None:
        """One step of AdamW for every network; losses [K] if one may `look`.

        Args:
            rows: Laid out inputs of a batch, [K, ...] for each network, or [S, ...] for S blocks of as many networks.
            objective: What is minimised.
            given: What it gathered for the batch.
            factor: What the learning rates are multiplied by.
            draw: Uniform random numbers [1 or K, *shape], for dropout.
            look: Whether to say what the losses were.
        """
        inputs = self._encoded(rows)
        widths = [weight.shape[1] for weight, _ in self._layers[:-1]]
        masks = [
            (draw((width, inputs.shape[-1])) >= hidden.dropout).float() / (1 - hidden.dropout)
            if hidden.dropout
            else None
            for hidden, width in zip(self._hidden, widths, strict=True)
        ]
        passed, raw = self._forward(inputs, masks)
        losses, gradient = objective.gradients(passed[-1].mT, given, look)
        self._backward(passed, raw, masks, gradient.mT)
        if self._clip_norm is not None:
            self._clip(self._clip_norm)
        self._scaled.addcmul_(self._scaled, self._decays, value=-factor)
        self._count += 1
        fused_adamw(
            *([tensor] for tensor in (self._scaled, self._gradient, self._mean, self._square)),
            [],
            [self._count],
            lr=factor,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )
        torch.mul(self._scaled, self._rates, out=self._flat)
        return losses

    def _backward(
        self,
        passed: list[torch.Tensor],
        raw: list[torch.Tensor],
        masks: Sequence[torch.Tensor | None],
        gradient: torch.Tensor,
    ) -> None:
        _, between = self._buffers(gradient.shape[-1])
        for number in reversed(range(1, len(self._layers))):
            weight_gradient, bias_gradient = self._gradients[number]
            torch.sum(gradient, 2, keepdim=True, out=bias_gradient)
            _outer(gradient, passed[number], weight_gradient)
            before = number - 1
            gradient = torch.bmm(self._layers[number][0].mT, gradient, out=between[before])
            mask = masks[before]
            if mask is not None:
                gradient.mul_(mask)
            gradient = self._hidden[before].activation.backward(gradient, raw[before])
        _outer(gradient, passed[0], self._first_gradient)

    def _clip(self, clip_norm: float) -> None:
        squares = sum(part.square().sum((1, 2)) for pair in self._gradients for part in pair)
        scale = (clip_norm / (torch.as_tensor(squares).sqrt() + 1e-6)).clamp(max=1)[:, None, None]
        for pair in self._gradients:
            for part in pair:
                part.mul_(scale)

    @property
    def record(self) -> dict[str, float]:
        """What to say of an epoch in the history besides its losses: nothing."""
        return {}

    @torch.no_grad()
    def predict(self, inputs: Inputs) -> np.ndarray:
        """Logits float32 [K, N, C] of encoded rows [N, features]."""

        def forward(rows: torch.Tensor) -> torch.Tensor:
            passed, _ = self._forward(self._encoded(self.laid_out(rows[None])))
            return passed[-1].mT

        return in_batches(forward, inputs, self._device)


def _turned(out: int, wide: int) -> bool:
    """Whether to keep weights as [in, out]: the product that makes their gradient is faster with the longer side first.

    Measured: 8.5 instead of 11.4 us for 64 x 32 weights and a batch of 256. For few classes it is the other way round.
    """
    return wide > out >= 8


def _with_last(rows: torch.Tensor, last: float) -> torch.Tensor:
    """Rows [S, n, F] as [S, F + 1, n], where the last feature is the same for all."""
    made = rows.new_empty(len(rows), rows.shape[2] + 1, rows.shape[1])
    made[:, :-1], made[:, -1] = rows.mT, last
    return made


def _product(weight: torch.Tensor, inputs: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """``weight @ inputs``: [K, out, in] and [S, in, B], of which each serves K / S networks by one larger product."""
    streams = inputs.shape[0]
    if streams == 1:
        torch.mm(weight.flatten(0, 1), inputs[0], out=out.view(-1, inputs.shape[-1]))
    else:
        torch.bmm(_in_blocks(weight, streams), inputs, out=_in_blocks(out, streams))
    return out


def _in_blocks(values: torch.Tensor, count: int) -> torch.Tensor:
    """Values [K, n, m] of K networks as [count, K / count · n, m]."""
    return values.view(count, -1, values.shape[-1])


def _outer(gradient: torch.Tensor, inputs: torch.Tensor, out: torch.Tensor) -> None:
    """``gradient @ inputs.T``, likewise."""
    streams = inputs.shape[0]
    if streams == 1 < gradient.shape[0]:
        torch.mm(gradient.flatten(0, 1), inputs[0].T, out=out.flatten(0, 1))
    elif streams < gradient.shape[0]:
        torch.bmm(_in_blocks(gradient, streams), inputs.mT, out=_in_blocks(out, streams))
    elif out.mT.is_contiguous():
        torch.bmm(inputs, gradient.mT, out=out.mT)
    else:
        torch.bmm(gradient, inputs.mT, out=out)
