"""Soft losses: what every one of them promises, and plain distillation against torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import KLDivLoss
from torch.nn.functional import log_softmax

from distillery.losses import LOSSES

TEMPERATURES = st.floats(0.5, 50)
SEEDS = st.integers(0, 999)


def batch(seed: int, rows: int = 6, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student's logits (with gradient), teacher's logits and labels, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher, torch.randint(0, classes, (rows,), generator=generator)


def gradient(loss: Any, student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """d loss / d student's logits."""
    labels = torch.zeros(len(student), dtype=torch.long)
    (found,) = torch.autograd.grad(loss(student, teacher, labels, temperature), student)
    return found


@pytest.mark.parametrize("name", LOSSES.names())
@given(seed=SEEDS, temperature=TEMPERATURES)
def test_every_loss_keeps_the_promise(name: str, seed: int, temperature: float) -> None:
    """contract: a finite scalar, at least zero, with a finite gradient for the student."""
    loss, options = LOSSES[name], LOSSES.check(name, {})
    student, teacher, labels = batch(seed)
    value = loss(student, teacher, labels, temperature, **options)
    assert value.ndim == 0 and torch.isfinite(value) and value >= -1e-9
    value.backward()
    assert student.grad is not None and torch.isfinite(student.grad).all()


@given(seed=SEEDS, temperature=TEMPERATURES)
def test_kd_is_torchs_divergence(seed: int, temperature: float) -> None:
    """reference: T² times torch.nn.KLDivLoss with batchmean and log targets."""
    student, teacher, labels = batch(seed)
    soft = [log_softmax(z / temperature, dim=-1) for z in (student, teacher)]
    expected = temperature**2 * KLDivLoss(reduction="batchmean", log_target=True)(*soft)
    torch.testing.assert_close(LOSSES["kd"](student, teacher, labels, temperature), expected)


@given(seed=SEEDS, temperature=TEMPERATURES)
def test_kd_is_zero_only_for_equal_distributions(seed: int, temperature: float) -> None:
    """property: zero where the logits are equal up to a constant per row, above zero elsewhere."""
    student, teacher, labels = batch(seed)
    assert LOSSES["kd"](teacher + 3.0, teacher, labels, temperature) < 1e-9
    assert LOSSES["kd"](student, teacher, labels, temperature) > 1e-3


@given(seed=SEEDS, temperature=TEMPERATURES)
def test_kd_sees_differences_of_logits_alone(seed: int, temperature: float) -> None:
    """property: a constant added to a row's logits, of either side, changes nothing."""
    student, teacher, labels = batch(seed)
    shift = torch.arange(len(labels), dtype=torch.float64)[:, None] - 2
    value = LOSSES["kd"](student, teacher, labels, temperature)
    torch.testing.assert_close(LOSSES["kd"](student + shift, teacher, labels, temperature), value)
    torch.testing.assert_close(LOSSES["kd"](student, teacher + shift, labels, temperature), value)


@given(seed=SEEDS)
def test_kd_at_high_temperature_matches_logits(seed: int) -> None:
    """reference: as T grows, the gradient tends to the difference of the centred logits, by C and the batch size."""
    student, teacher, _ = batch(seed)
    centred = [z - z.mean(-1, keepdim=True) for z in (student.detach(), teacher)]
    expected = (centred[0] - centred[1]) / student.numel()
    torch.testing.assert_close(gradient(LOSSES["kd"], student, teacher, 1e4), expected, rtol=1e-2, atol=1e-4)


@given(seed=SEEDS)
def test_temperature_keeps_the_size_of_the_gradient(seed: int) -> None:
    """property: for small logits the gradient at T = 10 is as long as at T = 1, within a third."""
    student, teacher, _ = batch(seed)
    small = (0.1 * student).detach().requires_grad_()
    lengths = [gradient(LOSSES["kd"], small, 0.1 * teacher, t).norm() for t in (1.0, 10.0)]
    assert 0.75 < lengths[1] / lengths[0] < 1.33
