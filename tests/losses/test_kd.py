"""Plain distillation against torch, and its limit at high temperature."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import KLDivLoss
from torch.nn.functional import log_softmax

from distillery.losses import LOSSES

TEMPERATURES = st.floats(0.5, 50)
SEEDS = st.integers(0, 999)


def gradient(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """d kd / d student's logits."""
    labels = torch.zeros(len(student), dtype=torch.long)
    (found,) = torch.autograd.grad(LOSSES["kd"](student, teacher, labels, temperature), student)
    return found


@given(seed=SEEDS, temperature=TEMPERATURES)
def test_kd_is_torchs_divergence(batch: Any, seed: int, temperature: float) -> None:
    """reference: T² times torch.nn.KLDivLoss with batchmean and log targets."""
    student, teacher, labels = batch(seed)
    soft = [log_softmax(z / temperature, dim=-1) for z in (student, teacher)]
    expected = temperature**2 * KLDivLoss(reduction="batchmean", log_target=True)(*soft)
    torch.testing.assert_close(LOSSES["kd"](student, teacher, labels, temperature), expected)


@given(seed=SEEDS, temperature=TEMPERATURES)
def test_kd_is_zero_only_for_equal_distributions(batch: Any, seed: int, temperature: float) -> None:
    """property: zero where the logits are equal up to a constant per row, above zero elsewhere."""
    student, teacher, labels = batch(seed)
    assert LOSSES["kd"](teacher + 3.0, teacher, labels, temperature) < 1e-9
    assert LOSSES["kd"](student, teacher, labels, temperature) > 1e-3


@given(seed=SEEDS)
def test_kd_at_high_temperature_matches_logits(batch: Any, seed: int) -> None:
    """reference: as T grows, the gradient tends to the difference of the centred logits, by C and the batch size."""
    student, teacher, _ = batch(seed)
    centred = [z - z.mean(-1, keepdim=True) for z in (student.detach(), teacher)]
    expected = (centred[0] - centred[1]) / student.numel()
    torch.testing.assert_close(gradient(student, teacher, 1e4), expected, rtol=1e-2, atol=1e-4)


@given(seed=SEEDS)
def test_temperature_keeps_the_size_of_the_gradient(batch: Any, seed: int) -> None:
    """property: for small logits the gradient at T = 10 is as long as at T = 1, within a third."""
    student, teacher, _ = batch(seed)
    small = (0.1 * student).detach().requires_grad_()
    lengths = [gradient(small, 0.1 * teacher, t).norm() for t in (1.0, 10.0)]
    assert 0.75 < lengths[1] / lengths[0] < 1.33
