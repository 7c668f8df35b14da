"""Squared error between logits."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from distillery.losses import LOSSES


@LOSSES.register("mse", uses_temperature=False)
def mse(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float | torch.Tensor,
    *,
    clip: Annotated[float, Field(gt=0)] = 10.0,
) -> torch.Tensor:
    """``½ · ‖(s - mean(s)) - (t - mean(t))‖² / C``, mean over the batch; the temperature is ignored.

    Kim, Oh, Kim, Cho and Yun 2021, arXiv 2105.08919. They take the mean squared error of the raw logits. Centring
    drops the constant per row that no softmax sees, and with the ½ this is what ``kd`` tends to as T grows. A student
    equal to the teacher is at the minimum, 0, where the clip touches nothing.

    Args:
        student_logits: Student's logits [..., B, C].
        teacher_logits: Teacher's logits [..., B, C].
        labels: Not used.
        temperature: Not used.
        clip: Largest size of a teacher's centred logit; ``.inf`` leaves them all.
    """
    student = student_logits - student_logits.mean(-1, keepdim=True)
    teacher = teacher_logits.detach() - teacher_logits.detach().mean(-1, keepdim=True)
    # a very sure teacher has logits far out, and squared they would outweigh all other rows
    bound = torch.as_tensor(clip, device=teacher.device)
    return 0.5 * (student - teacher.clamp(-bound, bound)).square().mean((-1, -2))
