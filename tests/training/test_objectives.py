"""Objectives: gradients that are written out, and what their losses are made of. K learners, B rows, C classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from distillery.losses import LOSSES
from distillery.training.objectives import Answers, Labels, Objective, Taught

ROWS, CLASSES = 20, 4
GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(0, CLASSES, (ROWS,), generator=GENERATOR)
TEACHER = 2 * torch.randn(ROWS, CLASSES, generator=GENERATOR)
LOGITS = 2 * torch.randn(3, 8, CLASSES, generator=GENERATOR)
ITEMS = torch.randint(0, ROWS, (3, 8), generator=GENERATOR)
KNOWN = {"all known": None, "some known": torch.arange(ROWS) % 3 > 0}
TEMPERATURES = (1.0, 3.0, 7.0)


def taught(known: torch.Tensor | None, alphas: Any, smoothing: Any, loss: str = "kd") -> Taught:
    """Three learners of one soft loss, with its default options."""
    options = [LOSSES.check(loss, {})] * 3
    return Taught(TEACHER, Answers(LABELS, known, CLASSES), loss, options, TEMPERATURES, alphas, smoothing)


OBJECTIVES: dict[str, Objective] = {
    f"{name}, {kind}, smoothing {smoothing}": made
    for kind, known in KNOWN.items()
    for smoothing in ((0.0, 0.0, 0.0), (0.0, 0.1, 0.3))
    for name, made in {
        "labels": Labels(Answers(LABELS, known, CLASSES), smoothing),
        "kd": taught(known, (1.0, 0.5, 0.0), smoothing),
        "kd alone": taught(known, (1.0, 1.0, 1.0), smoothing),
        "mse": taught(known, (1.0, 0.5, 0.2), smoothing, "mse"),
    }.items()
}


@pytest.mark.parametrize("shared", [True, False], ids=["one batch", "a batch each"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_that_are_written_out_are_autograds(name: str, shared: bool) -> None:
    """reference: `Objective.gradients`, which asks torch; losses only where one may look."""
    objective = OBJECTIVES[name]
    given = objective.gather(ITEMS[:1] if shared else ITEMS)
    losses, expected = Objective.gradients(objective, LOGITS, given, True)
    found = objective.gradients(LOGITS.clone(), given, True)
    assert found[0] is not None and losses is not None and found[0].shape == (3,)
    torch.testing.assert_close(found[0], losses)
    torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(objective.gradients(LOGITS.clone(), given, False)[1], found[1])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_some_learners_are_what_they_are_among_all(name: str) -> None:
    """property: losses and gradients of a part are the part of all losses and gradients."""
    objective, which = OBJECTIVES[name], torch.tensor([2, 0])
    for items in (ITEMS[:1], ITEMS):
        losses, gradients = objective.gradients(LOGITS.clone(), objective.gather(items), True)
        part = objective.of(which)
        mine = items if len(items) == 1 else items[which]
        found, found_gradients = part.gradients(LOGITS[which], part.gather(mine), True)
        assert losses is not None and found is not None
        torch.testing.assert_close(found, losses[which])
        torch.testing.assert_close(found_gradients, gradients[which])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_labels_are_torchs_cross_entropy(smoothing: float) -> None:
    """reference: torch's own, with its label smoothing."""
    objective = Labels(Answers(LABELS, None, CLASSES), (smoothing,) * 3)
    found = objective.losses(LOGITS, objective.gather(ITEMS))
    expected = [cross_entropy(z, LABELS[i], label_smoothing=smoothing) for z, i in zip(LOGITS, ITEMS, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("loss", LOSSES.names())
def test_taught_is_the_loss_beside_the_cross_entropy(loss: str) -> None:
    """reference: learner by learner, with the ensemble's probabilities where an item has no label."""
    alphas, known = (1.0, 0.5, 0.0), KNOWN["some known"]
    objective = taught(known, alphas, (0.0, 0.0, 0.0), loss)
    found = objective.losses(LOGITS, objective.gather(ITEMS))
    for k, (logits, items) in enumerate(zip(LOGITS, ITEMS, strict=True)):
        soft = LOSSES[loss](logits, TEACHER[items], LABELS[items], TEMPERATURES[k], **LOSSES.check(loss, {}))
        exact = torch.eye(CLASSES)[LABELS[items]]
        goal = torch.where(known[items][:, None], exact, TEACHER[items].softmax(-1))
        expected = alphas[k] * soft + (1 - alphas[k]) * cross_entropy(logits, goal)
        torch.testing.assert_close(found[k], expected)


def test_answers_are_labels_where_they_hold() -> None:
    """golden: one for the label; the given probabilities where it does not hold, unless there are none."""
    answers = Answers(torch.tensor([1, 0, 2]), torch.tensor([True, False, True]), 3)
    items, otherwise = torch.tensor([[0, 1], [1, 2]]), torch.full((2, 2, 3), 0.25)
    exact = np.eye(3)[[[1, 0], [0, 2]]]
    assert np.array_equal(answers.gather(items), exact)
    expected = exact.copy()
    expected[0, 1] = expected[1, 0] = 0.25
    assert np.array_equal(answers.gather(items, otherwise), expected)
