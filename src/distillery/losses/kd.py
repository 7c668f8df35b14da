"""Plain knowledge distillation."""

from __future__ import annotations

import torch
from torch.nn.functional import log_softmax

from distillery.losses import LOSSES


@LOSSES.register("kd")
def kd(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float | torch.Tensor,
) -> torch.Tensor:
    """``T² · KL(softmax(teacher / T) ‖ softmax(student / T))``, mean over the batch.

    T² keeps the size of the gradient independent of the temperature (Hinton, Vinyals and Dean 2015, arXiv 1503.02531).
    """
    student = log_softmax(student_logits / temperature, dim=-1)
    teacher = log_softmax(teacher_logits.detach() / temperature, dim=-1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(-1).mean()
