"""Soft losses. One file here = one loss that a config can name.

A soft loss is a function ``(student_logits [..., B, C], teacher_logits [..., B, C], labels [..., B], temperature,
**options) -> [...]``, the mean over the batch. Leading dimensions are those of models that train together: they
broadcast, and temperature and options are floats above 0 or tensors [..., 1, 1]. The gradient reaches the student
alone; labels are valid class ids. The hard cross-entropy is not part of it: the objective is ``alpha * soft +
(1 - alpha) * CE``, so that a weight w that a paper gives its soft term beside ``1 * CE`` is ``alpha = w / (1 + w)``
here.

Traits: ``min_classes`` (2 where absent) with ``dead``, what is lost with fewer classes; ``uses_temperature`` (true
where absent); ``gradient``, a function of the same arguments that writes the gradient [..., B, C] out, where that is
worth it: it saves a graph in every step.
"""

from collections.abc import Callable
from typing import Annotated, TypedDict

import torch
from pydantic import Field
from torch.nn.functional import log_softmax

from distillery.registry import Registry

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Traits(TypedDict, total=False):
    """Facts about a loss, see above."""

    min_classes: int
    dead: str
    uses_temperature: bool
    gradient: Callable[..., torch.Tensor]
    check: Callable[[dict[str, object]], object]


LOSSES: Registry[torch.Tensor, Traits] = Registry("loss", "distillery.losses", Traits, own={})


def log_probs(logits: torch.Tensor) -> torch.Tensor:
    """``log_softmax`` over the classes of logits [..., B, C].

    Computed with the batch innermost, which is many times as fast for a few classes (measured: 2 to 20 times).
    """
    return log_softmax(logits.transpose(-1, -2), dim=-2).transpose(-1, -2)


def probs(logits: torch.Tensor) -> torch.Tensor:
    """``softmax`` over the classes of logits [..., B, C], computed likewise."""
    return logits.transpose(-1, -2).softmax(-2).transpose(-1, -2)


def of_label(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The label's value [..., B, 1] of values [..., B, C]; labels [..., B] broadcast."""
    return values.gather(-1, labels.expand(values.shape[:-1])[..., None])
