"""Soft losses: what every one of them promises."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distillery.errors import InputError
from distillery.losses import LOSSES

TEMPERATURES = st.floats(0.5, 50)
SEEDS = st.integers(0, 999)
EACH = pytest.mark.parametrize("name", LOSSES.names())
# the student that a loss asks for, where it is not the teacher itself
ASKED_FOR = {"wttm": lambda teacher, temperature: teacher / temperature}
# not a divergence: the weight of a row changes with the student, so that only the gradient is zero there
NO_MINIMUM = {"wsld"}


def loss_of(name: str) -> Callable[..., torch.Tensor]:
    """The loss with its default options."""
    return partial(LOSSES[name], **LOSSES.check(name, {}))


def gradient(name: str, student: torch.Tensor, *rest: Any) -> torch.Tensor:
    """d loss / d student's logits."""
    student = student.detach().requires_grad_()
    (found,) = torch.autograd.grad(loss_of(name)(student, *rest), student)
    return found


@EACH
@given(seed=SEEDS, temperature=TEMPERATURES)
def test_every_loss_keeps_the_promise(batch: Any, name: str, seed: int, temperature: float) -> None:
    """contract: a finite scalar, at least zero, with a finite gradient for the student."""
    student, teacher, labels = batch(seed)
    value = loss_of(name)(student, teacher, labels, temperature)
    assert value.ndim == 0 and torch.isfinite(value) and value >= -1e-9
    value.backward()
    assert student.grad is not None and torch.isfinite(student.grad).all()


@EACH
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 50.0])
@pytest.mark.parametrize("rows", [1, 8])
def test_extreme_logits_give_finite_numbers(name: str, temperature: float, rows: int) -> None:
    """contract: in single precision, with logits of ±50 on either side, equal ones, and any number of rows."""
    labels = torch.arange(rows) % 4
    sure = 100 * torch.eye(4)[labels] - 50
    for student in (sure, -sure, 0 * sure, sure.roll(1, -1)):
        for teacher in (sure, -sure, 0 * sure):
            assert torch.isfinite(loss_of(name)(student, teacher, labels, temperature))
            assert torch.isfinite(gradient(name, student, teacher, labels, temperature)).all()


@EACH
def test_the_gradient_reaches_the_student_alone(batch: Any, name: str) -> None:
    """contract: logits of a teacher that asks for a gradient get none."""
    student, teacher, labels = batch(0)
    loss_of(name)(student, teacher.requires_grad_(), labels, 2.0).backward()
    assert teacher.grad is None and student.grad is not None and student.grad.norm() > 0


@EACH
@given(seed=SEEDS, temperature=TEMPERATURES)
def test_the_order_of_the_rows_does_not_matter(batch: Any, name: str, seed: int, temperature: float) -> None:
    """property: the same value for a permuted batch."""
    given_batch = batch(seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    values = [loss_of(name)(*rows, temperature) for rows in (given_batch, [part[order] for part in given_batch])]
    torch.testing.assert_close(values[0], values[1])


@EACH
@given(seed=SEEDS, temperature=TEMPERATURES)
def test_differences_of_logits_are_all_that_counts(batch: Any, name: str, seed: int, temperature: float) -> None:
    """property: a constant added to a row's logits, of either side, changes nothing."""
    student, teacher, labels = batch(seed)
    shift = torch.arange(len(labels), dtype=torch.float64)[:, None] - 2
    value = loss_of(name)(student, teacher, labels, temperature)
    torch.testing.assert_close(loss_of(name)(student + shift, teacher, labels, temperature), value)
    torch.testing.assert_close(loss_of(name)(student, teacher + shift, labels, temperature), value)


@EACH
@given(seed=SEEDS, temperature=st.floats(0.5, 8))
def test_the_student_asked_for_is_the_minimum(batch: Any, name: str, seed: int, temperature: float) -> None:
    """property: no gradient at the student that the definition asks for; 0 there for a divergence, more elsewhere."""
    other, teacher, labels = batch(seed)
    teacher = teacher / 3  # within the clip of mse
    asked_for = ASKED_FOR.get(name, lambda teacher, _: teacher)(teacher, temperature)
    values = [loss_of(name)(z, teacher, labels, temperature).abs() for z in (asked_for, other)]
    lengths = [gradient(name, z, teacher, labels, temperature).norm() for z in (asked_for, other)]
    # not exactly 0 in dist, whose denominators have a small constant added
    assert lengths[0] < 0.01 * lengths[1] and lengths[1] > 1e-3
    assert name in NO_MINIMUM or (values[0] < 0.001 * values[1] and values[1] > 1e-3)


@EACH
@pytest.mark.parametrize("seed", range(3))
def test_descent_leads_to_the_teacher(batch: Any, name: str, seed: int) -> None:
    """property: free logits that follow the gradient end with the teacher's top class on every row."""
    student, teacher, _ = batch(seed)
    labels = teacher.argmax(-1)
    optimizer = torch.optim.Adam([student], lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        loss_of(name)(student, teacher, labels, 2.0).backward()
        optimizer.step()
    assert torch.equal(student.argmax(-1), labels)


@EACH
def test_the_temperature_may_be_a_tensor(batch: Any, name: str) -> None:
    """contract: the value is that of the float."""
    value, expected = (loss_of(name)(*batch(0), t) for t in (torch.tensor(3.0), 3.0))
    torch.testing.assert_close(value, expected)


@EACH
@pytest.mark.parametrize("shared", [True, False], ids=["one batch", "a batch each"])
def test_models_that_train_together_have_a_loss_each(batch: Any, name: str, shared: bool) -> None:
    """reference: values and gradients one by one; temperatures and options are their own, targets may be shared."""
    batches = [batch(seed) for seed in range(3)]
    students = torch.stack([student for student, _, _ in batches]).detach().requires_grad_()
    teachers, labels = (torch.stack([b[i] for b in batches[: 1 if shared else 3]]) for i in (1, 2))
    temperatures = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).view(3, 1, 1)
    factors = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).view(3, 1, 1)
    options = {option: value * factors for option, value in LOSSES.check(name, {}).items()}
    found = LOSSES[name](students, teachers, labels, temperatures, **options)
    assert found.shape == (3,)
    (gradients,) = torch.autograd.grad(found.sum(), students)
    written = LOSSES.traits(name).get("gradient")
    if written is not None:
        torch.testing.assert_close(written(students.detach(), teachers, labels, temperatures, **options), gradients)
    for k in range(3):
        own = {option: float(values[k]) for option, values in options.items()}
        student, place = students[k].detach().requires_grad_(), 0 if shared else k
        alone = LOSSES[name](student, teachers[place], labels[place], float(temperatures[k]), **own)
        torch.testing.assert_close(found[k], alone)
        torch.testing.assert_close(gradients[k], torch.autograd.grad(alone, student)[0])


@EACH
def test_the_trait_tells_whether_the_temperature_counts(batch: Any, name: str) -> None:
    """contract: the value changes with the temperature exactly where `uses_temperature` is not False."""
    values = [loss_of(name)(*batch(0), temperature) for temperature in (1.0, 3.0)]
    assert (values[0] != values[1]) == LOSSES.traits(name).get("uses_temperature", True)


@EACH
def test_options_are_explained_and_checked(name: str) -> None:
    """contract: the docstring names every option; none takes a negative number, and all take their defaults."""
    defaults = LOSSES.check(name, {})
    for option in defaults:
        assert f"        {option}: " in (inspect.getdoc(LOSSES[name]) or "").replace("\n", "\n    ")
        with pytest.raises(InputError, match=option):
            LOSSES.check(name, {option: -1.0})
    assert LOSSES.check(name, defaults) == defaults
