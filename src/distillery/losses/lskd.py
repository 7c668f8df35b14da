"""Knowledge distillation with standardised logits."""

from __future__ import annotations

import torch

from distillery.losses import LOSSES, Weight
from distillery.losses.kd import kd

EPS = 1e-7


@LOSSES.register(
    "lskd",
    min_classes=3,
    dead="with two classes every row standardises to plus and minus 0.71, so nothing of the teacher's confidence "
    "is left and there is no gradient",
)
def lskd(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float | torch.Tensor,
    *,
    weight: Weight = 9.0,
) -> torch.Tensor:
    """``weight · kd(Z(student), Z(teacher))`` with ``Z(x) = (x - mean(x)) / std(x)`` per row, std with C - 1.

    Sun, Ren, Li, Wang and Cao 2024, arXiv 2403.01427. Only the shape of a row counts, not its scale: the value is 0 for
    ``student = a · teacher + b`` with any a > 0. So the student's confidence is not taught and needs calibration.

    Args:
        student_logits: Student's logits [..., B, C].
        teacher_logits: Teacher's logits [..., B, C].
        labels: Not used.
        temperature: The base temperature; the authors take 2.
        weight: Weight of the loss; the authors take 9 beside a cross-entropy of weight 1, which
            is alpha = 0.5 here.
    """
    value = kd(_standard(student_logits), _standard(teacher_logits), labels, temperature)
    return value * (weight.squeeze((-1, -2)) if isinstance(weight, torch.Tensor) else weight)


def _standard(logits: torch.Tensor) -> torch.Tensor:
    """Every row [C] with mean 0 and standard deviation 1; zeros where all logits are equal."""
    return (logits - logits.mean(-1, keepdim=True)) / (EPS + logits.std(-1, keepdim=True))
