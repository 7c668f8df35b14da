"""Plain knowledge distillation."""

from __future__ import annotations

import torch

from distillery.losses import LOSSES, log_probs, probs


def gradient(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float | torch.Tensor,
) -> torch.Tensor:
    """``T / B · (softmax(student / T) - softmax(teacher / T))``, [..., B, C]."""
    difference = probs(student_logits / temperature) - probs(teacher_logits / temperature)
    return difference.mul_(temperature / student_logits.shape[-2])


@LOSSES.register("kd", gradient=gradient)
def kd(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float | torch.Tensor,
) -> torch.Tensor:
    """``T² · KL(softmax(teacher / T) ‖ softmax(student / T))``, mean over the batch.

    T² keeps the size of the gradient independent of the temperature (Hinton, Vinyals and Dean 2015, arXiv 1503.02531).
    """
    student = log_probs(student_logits / temperature)
    teacher = log_probs(teacher_logits.detach() / temperature)
    return (temperature**2 * (teacher.exp() * (teacher - student)).sum(-1, keepdim=True)).mean((-1, -2))
