"""Weighted soft labels."""

from __future__ import annotations

import torch

from distillery.losses import LOSSES, Weight, log_probs, of_label

EPS = 1e-7


@LOSSES.register("wsld")
def wsld(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float | torch.Tensor,
    *,
    weight: Weight = 2.5,
) -> torch.Tensor:
    """``weight · T² · w · CE(softmax(teacher / T), softmax(student / T))``, mean over the batch.

    ``w = 1 - exp(-CE_s / CE_t)`` per row, from the cross-entropies of student and teacher with the label at T = 1, and
    no gradient through it. Zhou, Song, Chen, Zhou, Wang, Yuan and Zhang 2021, arXiv 2102.00650. Rows on which the
    student is already better than the teacher, where soft labels only regularise, count less.

    It is a cross-entropy: at student = teacher the gradient is 0, but the value is (1 - 1/e) · weight · T² times the
    entropy of softmax(teacher / T).

    Args:
        student_logits: Student's logits [..., B, C].
        teacher_logits: Teacher's logits [..., B, C].
        labels: Class ids [..., B].
        temperature: T; the authors take 2 on ImageNet and 4 on CIFAR-100.
        weight: Weight of the loss (the authors' alpha: 2.5 on ImageNet, 2.25 on CIFAR-100) beside a cross-entropy of
            weight 1, which is alpha = 0.5 here.
    """
    student = log_probs(student_logits / temperature)
    teacher = (teacher_logits.detach() / temperature).softmax(-1)
    hard_s, hard_t = (-of_label(log_probs(z.detach()), labels) for z in (student_logits, teacher_logits))
    row_weights = -torch.expm1(-hard_s / (hard_t + EPS))
    rows = row_weights * -(teacher * student).sum(-1, keepdim=True)
    return (weight * temperature**2 * rows).mean((-1, -2))
