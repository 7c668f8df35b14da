"""Decoupled knowledge distillation."""

from __future__ import annotations

import torch

from distillery.losses import LOSSES, Weight, log_probs


@LOSSES.register(
    "dkd",
    min_classes=3,
    dead="with two classes a single class is left beside the label's, so the non-target part is always zero "
    "and the rest is plain kd",
)
def dkd(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float | torch.Tensor,
    *,
    target_weight: Weight = 1.0,
    beta: Weight = 2.0,
) -> torch.Tensor:
    """``T² · (target_weight · KL(b_t ‖ b_s) + beta · KL(q_t ‖ q_s))``, mean over the batch.

    ``b`` is the pair (probability of the label, probability of all others) and ``q`` the distribution among the others,
    both from ``softmax(logits / T)``. Zhao, Cui, Song, Qiu and Liang 2022, arXiv 2203.08679. In plain ``kd`` the second
    part has the weight 1 - (teacher's probability of the label), next to nothing where the teacher is sure.

    The authors raise the weight of the whole loss from 0 over the first epochs; here it is constant.

    Args:
        student_logits: Student's logits [..., B, C].
        teacher_logits: Teacher's logits [..., B, C].
        labels: Class ids [..., B].
        temperature: T; the authors take 4 on CIFAR-100 and 1 on ImageNet.
        target_weight: Weight of the target part (their alpha, always 1).
        beta: Weight of the non-target part. The authors take 0.5 and 2 on ImageNet, 2 to 8 on CIFAR-100.
    """
    target_s, others_s = _parts(student_logits / temperature, labels)
    target_t, others_t = _parts(teacher_logits.detach() / temperature, labels)
    target, others = _divergence(target_t, target_s), _divergence(others_t, others_s)
    return (temperature**2 * (target_weight * target + beta * others)).mean((-1, -2))


def _parts(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (label, all others) [.., B, 2], among the others [.., B, C - 1] from the label's next on."""
    logs, classes = log_probs(logits), logits.shape[-1]
    order = (labels[..., None] + torch.arange(classes, device=labels.device)) % classes
    target, others = logs.gather(-1, order.expand(logs.shape)).split([1, classes - 1], dim=-1)
    # summed as logs: 1 - p is 0 in floating point, and its log infinite, for a sure network
    rest = others.logsumexp(-1, keepdim=True)
    return torch.cat([target, rest], dim=-1), others - rest


def _divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    return (teacher.exp() * (teacher - student)).sum(-1, keepdim=True)
