"""Distillation from a stronger teacher: correlations in place of distances."""

from __future__ import annotations

import torch

from distillery.losses import LOSSES, Weight

EPS = 1e-8


@LOSSES.register(
    "dist",
    min_classes=3,
    dead="with two classes any two rows correlate by exactly 1 or -1, so the row part has no gradient",
)
def dist(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float | torch.Tensor,
    *,
    beta: Weight = 2.0,
    gamma: Weight = 2.0,
) -> torch.Tensor:
    """``T² · (beta · (1 - ρ_row) + gamma · (1 - ρ_col))`` with ρ the mean Pearson correlation of softmax(· / T).

    Huang, You, Wang, Qian and Xu 2022, arXiv 2205.10536. ρ_row is over the classes of a sample, ρ_col over the samples
    of a class in the batch, so the value depends on the batch: 64 rows or more. A correlation asks for the teacher's
    preferences, not for its probabilities: 0 where the student's are the teacher's or
    rise linearly with them.

    Args:
        student_logits: Student's logits [..., B, C].
        teacher_logits: Teacher's logits [..., B, C].
        labels: Not used.
        temperature: T; the authors take 4 on CIFAR-100 and 1 on ImageNet.
        beta: Weight of the row part. The authors take 2 for both.
        gamma: Weight of the column part.
    """
    student = (student_logits / temperature).softmax(-1)
    teacher = (teacher_logits.detach() / temperature).softmax(-1)
    rows, columns = _distance(student, teacher), _distance(student.mT, teacher.mT)
    return (temperature**2 * (beta * rows + gamma * columns)).squeeze((-1, -2))


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """1 - the mean Pearson correlation of the rows of two matrices [..., 1, 1]; a constant row counts as 0."""
    a, b = (x - x.mean(-1, keepdim=True) for x in (a, b))
    correlations = (a * b).sum(-1, keepdim=True) / (a.norm(dim=-1, keepdim=True) * b.norm(dim=-1, keepdim=True) + EPS)
    return 1 - correlations.mean((-1, -2), keepdim=True)
