"""Which losses are dead with two classes: what justifies the trait `min_classes`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distillery.losses import LOSSES

# options that leave the part alone which the trait says is dead
DEAD = {
    "dkd": {"target_weight": 0.0, "beta": 1.0},
    "dist": {"beta": 1.0, "gamma": 0.0},
    "lskd": {"weight": 1.0},
}
ALIVE = sorted(set(LOSSES.names()) - set(DEAD))
SEEDS = pytest.mark.parametrize("seed", range(10))


def gradient(batch: Any, name: str, classes: int, seed: int, options: dict[str, float]) -> float:
    """Size of d loss / d student's logits, for a random batch at T = 4: the median over its entries.

    The median, since the small constants in the denominators leave something on rows with nearly equal logits.
    """
    student, teacher, labels = batch(seed, rows=32, classes=classes)
    (found,) = torch.autograd.grad(LOSSES[name](student, teacher, labels, 4.0, **options), student)
    return float(found.abs().median())


def test_the_trait_names_the_dead_ones() -> None:
    """contract: the losses with a dead part, and no others, ask for three classes and give the reason."""
    traits = {name: LOSSES.traits(name) for name in LOSSES.names()}
    assert {name: t["min_classes"] for name, t in traits.items() if "min_classes" in t} == dict.fromkeys(DEAD, 3)
    assert all("with two classes" in traits[name]["dead"] for name in DEAD)


@SEEDS
@pytest.mark.parametrize("name", DEAD)
def test_the_dead_part_has_no_gradient(batch: Any, name: str, seed: int) -> None:
    """property: with two classes less than a ten-thousandth of the gradient with three is left."""
    two, three = (gradient(batch, name, classes, seed, DEAD[name]) for classes in (2, 3))
    assert two < 1e-4 * three and three > 1e-3


@SEEDS
@pytest.mark.parametrize("name", ALIVE)
def test_the_others_have_a_gradient(batch: Any, name: str, seed: int) -> None:
    """property: with two classes at least a third of the gradient with three is left."""
    two, three = (gradient(batch, name, classes, seed, LOSSES.check(name, {})) for classes in (2, 3))
    assert two > three / 3 > 1e-3


@SEEDS
def test_dkd_is_plain_distillation_with_two_classes(batch: Any, seed: int) -> None:
    """theorem: its target part is the divergence of (label, other), which are all the classes there are."""
    rows = batch(seed, classes=2)
    torch.testing.assert_close(LOSSES["dkd"](*rows, 4.0, beta=7.0), LOSSES["kd"](*rows, 4.0))


@SEEDS
def test_the_column_part_of_dist_is_alive_with_two_classes(batch: Any, seed: int) -> None:
    """property: what dist keeps with two classes, the correlation over the batch, has a gradient."""
    assert gradient(batch, "dist", 2, seed, {"beta": 0.0, "gamma": 1.0}) > 1e-3
