"""Weighted transformed teacher matching."""

from __future__ import annotations

import torch

from distillery.losses import LOSSES, log_probs


@LOSSES.register("wttm")
def wttm(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float | torch.Tensor,
) -> torch.Tensor:
    """``u · KL(q ‖ softmax(student))`` with ``q = p^γ / u``, ``u = Σ_c p_c^γ``, γ = 1 / T; mean over the batch.

    Zheng and Yang 2024, arXiv 2402.11148. p = softmax(teacher) without a temperature, so q = softmax(teacher / T). The
    student has no temperature either: it is to give the smoothed distribution itself, and the minimum, 0, is at
    student = teacher / T. The power sum u, a monotone function of p's Rényi entropy, gives more weight to the rows
    where the teacher is unsure (T > 1). The gradient does not shrink as T grows, hence no factor T².

    The authors give the loss a large weight beside the cross-entropy, and the larger the higher T is (45 at T = 10
    without u): alpha close to 1.

    Args:
        student_logits: Student's logits [..., B, C].
        teacher_logits: Teacher's logits [..., B, C].
        labels: Not used.
        temperature: T, the inverse of the authors' γ, for which their examples have 0.1 and 0.2.
    """
    student = log_probs(student_logits)
    powered = log_probs(teacher_logits.detach()) / temperature
    teacher = log_probs(powered)
    power_sum = powered.logsumexp(-1).exp()
    return (power_sum * (teacher.exp() * (teacher - student)).sum(-1)).mean(-1)
