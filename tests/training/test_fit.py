"""The training loop: reproducible bit by bit, exact in its schedule, loud when it diverges."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distillery.config.experiment import Augment, Recipe
from distillery.training import feed, streams
from distillery.training.feed import Inputs
from distillery.training.fit import Batches, TrainJob, TrainResult, Validation, fit, of_each
from distillery.training.objectives import Answers, Given, Labels, Objective
from distillery.training.stackable import stackable
from distillery.training.state import seeded

GENERATOR = np.random.default_rng(0)
TABLE = GENERATOR.normal(size=(50, 6)).astype(np.float32)
IMAGES = GENERATOR.integers(0, 256, (50, 2, 8, 8), np.uint8)
LABELS = torch.from_numpy(GENERATOR.integers(0, 3, 50))


class Plain(Objective):
    """Losses [K] that a function makes of logits [K, B, C] and the items [1 or K, B]."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        self.function = function

    def of(self, learners: torch.Tensor) -> Plain:
        """The same for all."""
        return self

    def gather(self, items: torch.Tensor) -> Given:
        """The items themselves."""
        return (items,)

    def losses(self, logits: torch.Tensor, given: Given) -> torch.Tensor:
        """What the function says."""
        return self.function(logits, given[0])


TOTAL = Plain(lambda logits, _: logits.sum((1, 2)))


def one(
    network: nn.Module, objective: Objective, recipe: Recipe, batches: Batches | None = None, **more: Any
) -> TrainResult:
    """The result of one network, by default on a dozen rows."""
    batches = batches or Inputs(TABLE, np.arange(12), "cpu")
    (result,) = fit([TrainJob(network, recipe, more.pop("seed", 0), batches)], objective, **more)
    return result


def trained(
    recipe: Recipe, seed: int = 0, rows: np.ndarray = TABLE, stacked: bool = False
) -> tuple[torch.Tensor, list[dict[str, float]]]:
    """All weights of a small network with dropout after training, and the history."""
    with seeded(1):
        size = int(np.prod(rows.shape[1:]))
        layers = [nn.Linear(size, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)]
        network = nn.Sequential(*layers) if stacked else nn.Sequential(nn.Flatten(), *layers)
    assert stackable([network]) == stacked
    result = one(
        network, Labels(Answers(LABELS, None, 3), [0.0]), recipe, Inputs(rows, np.arange(40), "cpu"), seed=seed
    )
    return torch.cat([p.detach().flatten() for p in network.parameters()]), result.history


RECIPES = {
    "plain": (Recipe(epochs=2, batch_size=16), TABLE),
    "clipped": (Recipe(epochs=2, batch_size=16, clip_norm=0.1), TABLE),
    "noisy": (Recipe(epochs=2, batch_size=16, augment=Augment(noise=0.2)), TABLE),
    "augmented": (Recipe(epochs=2, batch_size=16, augment=Augment(shift=0.25, flip=True)), IMAGES),
    "in another light": (Recipe(epochs=2, batch_size=16, augment=Augment(brightness=0.4)), IMAGES),
}


TABLES = [name for name, (_, rows) in RECIPES.items() if rows is TABLE]
CASES = [*((name, False) for name in RECIPES), *((name, True) for name in TABLES)]


@pytest.mark.parametrize(("name", "stacked"), CASES)
def test_the_seed_decides_every_bit(name: str, stacked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """determinism: the same seed gives the same bits, in memory or read batch by batch; another seed gives others."""
    recipe, rows = RECIPES[name]
    first, history = trained(recipe, 0, rows, stacked)
    torch.rand(7)
    second, _ = trained(recipe, 0, rows, stacked)
    assert torch.equal(first, second) and len(history) == 2
    assert not torch.equal(first, trained(recipe, 1, rows, stacked)[0])
    monkeypatch.setattr(feed, "resident_bytes", lambda device: 0)
    assert torch.equal(first, trained(recipe, 0, rows, stacked)[0])


def test_denormals_are_zero_while_it_trains_and_only_then() -> None:
    """property: a product of 1e-42 is zero inside; afterwards numbers are as they were, also if an error ended it."""
    inside: list[float] = []

    def tiny() -> float:
        return float(torch.tensor(1e-30) * 1e-12)

    def objective(logits: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        inside.append(tiny())
        if len(inside) > 2:
            raise KeyError
        return logits.square().mean((1, 2))

    for _ in range(2):
        with suppress(KeyError):
            one(nn.Linear(6, 2), Plain(objective), Recipe(epochs=2, batch_size=12))
        assert tiny() > 0
    assert inside == [0.0, 0.0, 0.0]


def test_a_training_on_a_cpu_opens_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: on a machine that has some, their generators are not asked; each of them would get a context."""

    def opened(*_: object) -> torch.Tensor:
        raise AssertionError("a GPU was opened")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", opened)
    trained(RECIPES["plain"][0])


def test_global_randomness_is_left_alone() -> None:
    """property: torch's global generator is where it was, after training and after a block that raised."""
    before = torch.random.get_rng_state()
    for stacked in (False, True):
        trained(RECIPES["plain"][0], stacked=stacked)
    with pytest.raises(KeyError), seeded(5):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.random.get_rng_state(), before)


class Counter(nn.Module):
    """One number that a constant gradient pulls down: Adam moves it by exactly the learning rate of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The number, once per row."""
        return self.place.expand(len(rows), 1)


def walked(recipe: Recipe, rows: int = 12) -> tuple[np.ndarray, list[list[int]], list[dict[str, float]]]:
    """Learning rate of every step, the positions of every batch, and the history."""
    network, places, batches = Counter(), [], []

    def objective(logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        places.append(network.place.item())
        batches.append(positions[0].tolist())
        return logits.mean((1, 2))

    inputs = Inputs(np.zeros((rows, 1), np.float32), np.arange(rows), "cpu")
    result = one(network, Plain(objective), recipe, inputs)
    return -np.diff([*places, network.place.item()]), batches, result.history


@pytest.mark.parametrize(("epochs", "warm"), [(5, 1.0), (4, 0.0), (3, 1.5), (2, 5.0)])
def test_the_learning_rate_warms_up_and_cools_down(epochs: int, warm: float) -> None:
    """reference: a linear rise over the warm-up's steps, then half a cosine to zero, by a loop."""
    recipe = Recipe(epochs=epochs, batch_size=4, lr=0.1, warmup_epochs=warm)
    expected = []
    for step in range(epochs * 3):
        if step < warm * 3:
            expected.append(0.1 * (step + 1) / (warm * 3 + 1))
        else:
            expected.append(0.1 * 0.5 * (1 + math.cos(math.pi * (step - warm * 3) / (epochs * 3 - warm * 3))))
    np.testing.assert_allclose(walked(recipe)[0], expected, rtol=1e-5)


@pytest.mark.parametrize(("rows", "batch_size", "steps", "size"), [(10, 4, 2, 4), (12, 4, 3, 4), (3, 64, 1, 3)])
def test_every_batch_is_full(rows: int, batch_size: int, steps: int, size: int) -> None:
    """property: batches of one size, no row twice in an epoch; leftovers are others in the next one."""
    _, batches, _ = walked(Recipe(epochs=30, batch_size=batch_size), rows)
    assert len(batches) == 30 * steps and {len(b) for b in batches} == {size}
    epochs = [[i for b in batches[e * steps : (e + 1) * steps] for i in b] for e in range(30)]
    assert all(len(set(e)) == steps * size for e in epochs)
    assert {i for e in epochs for i in e} == set(range(rows))


def test_some_losses_are_looked_at() -> None:
    """reference: an epoch's loss is the mean over every fourth step, from the first, and the last one."""
    rates, _, history = walked(Recipe(epochs=3, batch_size=2, lr=0.1), 20)
    places = -np.concatenate([[0.0], np.cumsum(rates)])
    expected = [places[np.array([0, 4, 8, 9]) + 10 * epoch].mean() for epoch in range(3)]
    assert [record["train_loss"] for record in history] == pytest.approx(expected)


@pytest.mark.parametrize("stacked", [False, True], ids=["alone", "stacked"])
@pytest.mark.parametrize("numbers", [1, 250])
def test_how_many_batches_are_prepared_together_is_a_matter_of_speed(
    numbers: int, stacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """property: without augmentation the bits are the same, however many steps are prepared at once."""
    recipe = Recipe(epochs=2, batch_size=8)
    expected, _ = trained(recipe, stacked=stacked)
    monkeypatch.setattr(streams, "BLOCK_NUMBERS", numbers)
    assert torch.equal(trained(recipe, stacked=stacked)[0], expected)


ENGINES = {"alone": nn.Linear(3, 2), "stacked": nn.Sequential(nn.Linear(3, 2))}


@pytest.mark.parametrize("engine", ENGINES)
def test_weight_decay_spares_biases(engine: str) -> None:
    """reference: with a zero gradient a matrix shrinks by (1 - lr · decay) each step, and a bias stays."""
    network = ENGINES[engine]
    weight, bias = network.parameters()
    before = weight.detach().clone(), bias.detach().clone()
    recipe = Recipe(epochs=1, batch_size=10, lr=0.1, weight_decay=0.5, warmup_epochs=0)
    one(network, Plain(lambda z, _: 0 * z.sum((1, 2))), recipe, Inputs(TABLE[:, :3], np.arange(10), "cpu"))
    torch.testing.assert_close(weight.detach(), before[0] * 0.95)
    torch.testing.assert_close(bias.detach(), before[1], atol=1e-7, rtol=0)  # a stack's is kept divided by its rate


def test_a_loss_that_is_no_number_is_told() -> None:
    """contract: the result says in which epoch, and keeps the epochs before; nothing is raised."""
    calls: list[int] = []

    def objective(logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return logits.sum((1, 2)) * (math.nan if len(calls) == 5 else 1.0)

    result = one(Counter(), Plain(objective), Recipe(batch_size=4))
    assert result.error == "the loss became nan in epoch 2; a lower lr may help"
    assert len(result.history) == 1 and len(calls) == 6 and not result.stopped


def test_weights_that_break_in_the_last_step_are_told() -> None:
    """contract: a finite loss with an infinite slope, in the one step after which no loss is looked at."""
    result = one(Counter(), Plain(lambda z, _: z.sqrt().sum((1, 2))), Recipe(epochs=1, batch_size=12))
    assert result.error is not None and result.error.startswith("weights became infinite in the last epoch;")


def test_every_epoch_is_reported_and_can_stop() -> None:
    """contract: one record per epoch with loss, seconds and validation; an exception from `on_epochs` ends it all,
    and a learner that it names has ended, in evaluation mode and with its weights of that epoch."""
    seen: list[tuple[int, dict[int, dict[str, float]]]] = []

    def raises(epoch: int, records: dict[int, dict[str, float]]) -> list[int]:
        seen.append((epoch, records))
        if epoch == 2:
            raise InterruptedError
        return []

    validation = Validation(TABLE, of_each(lambda _: {"val/nll": 0.5}))
    with pytest.raises(InterruptedError):
        one(Counter(), TOTAL, Recipe(), validation=validation, on_epochs=raises)
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert all(set(r[0]) == {"train_loss", "seconds", "val/nll"} and r[0]["val/nll"] == 0.5 for _, r in seen)
    network, places = Counter(), []

    def names_it(epoch: int, records: dict[int, dict[str, float]]) -> list[int]:
        places.append(network.place.item())
        return [0] if epoch == 3 else []

    result = one(network, TOTAL, Recipe(epochs=5), on_epochs=names_it)
    assert result.stopped and result.error is None and len(result.history) == len(places) == 3
    assert network.place.item() == places[-1] and not network.training


@pytest.mark.parametrize(("chosen", "expected"), [(None, [1, 2, 3, 4]), (range(3, 9), [3, 4]), ({2}, [2]), ((), [])])
def test_validation_runs_where_it_is_asked_for(chosen: Any, expected: list[int]) -> None:
    """contract: figures are made after the given epochs alone, of the network's logits in evaluation mode, and change
    no step; all epochs are recorded."""
    calls: list[np.ndarray] = []

    def measure(logits: np.ndarray) -> dict[str, float]:
        calls.append(logits)
        return {"val/nll": float(len(calls))}

    recipe, networks = Recipe(epochs=4, batch_size=4), [Counter(), Counter()]
    result = one(networks[0], TOTAL, recipe, validation=Validation(TABLE[:5], of_each(measure), chosen))
    one(networks[1], TOTAL, recipe)
    assert [epoch for epoch, record in enumerate(result.history, 1) if "val/nll" in record] == expected
    assert len(result.history) == 4 and [logits.shape for logits in calls] == [(5, 1)] * len(expected)
    assert torch.equal(networks[0].place, networks[1].place)
    assert 4 not in expected or (calls[-1] == np.float32(networks[0].place.item())).all()


class Dealt:
    """Seven items per epoch out of a hundred, in an order of its own, each with its number as its input."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.taken: list[int] = []

    def __len__(self) -> int:
        return 7

    def order(self, epoch: int, generator: torch.Generator) -> torch.Tensor:
        """Items that tell the epoch."""
        self.epochs.append(epoch)
        return 10 * epoch + torch.tensor([3, 0, 6, 2, 5, 1, 4])

    def take(self, items: torch.Tensor) -> torch.Tensor:
        """Their numbers."""
        self.taken += items.tolist()
        return items[:, None].float()


@pytest.mark.parametrize(("batch_size", "batches"), [(3, [[3, 0, 6], [2, 5, 1]]), (64, [[3, 0, 6, 2, 5, 1, 4]])])
def test_batches_decide_what_is_shown(batch_size: int, batches: list[list[int]]) -> None:
    """contract: epochs count from 1, items come in the given order and reach `take`, network and objective alike;
    item 0 is there to be looked at."""
    dealt, network, seen = Dealt(), nn.Linear(1, 2), []
    handed: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda _module, arguments: handed.append(arguments[0]))

    def objective(logits: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        seen.append(items[0].tolist())
        return logits.square().mean((1, 2))

    one(network, Plain(objective), Recipe(epochs=2, batch_size=batch_size), dealt)
    assert dealt.epochs == [1, 2]
    assert seen == [[10 * epoch + item for item in batch] for epoch in (1, 2) for batch in batches]
    assert [h[:, 0].long().tolist() for h in handed] == seen
    assert [item for item in dealt.taken if item] == [item for batch in seen for item in batch]


def test_noise_is_added_to_what_is_shown() -> None:
    """property: fresh normal numbers of the size asked for, on the rows and in the order that there are without it."""
    shown: dict[float, torch.Tensor] = {}
    for size in (0.0, 0.5):
        network, handed = nn.Linear(6, 2), []
        network.register_forward_pre_hook(lambda _module, arguments, to=handed: to.append(arguments[0].clone()))
        recipe = Recipe(epochs=40, batch_size=10, augment=Augment(noise=size))
        one(network, TOTAL, recipe, Inputs(TABLE, np.arange(50), "cpu"))
        shown[size] = torch.cat(handed)
    added = (shown[0.5] - shown[0.0]) / 0.5
    assert abs(added.mean()) < 0.03 and abs(added.std() - 1) < 0.03
    assert len(torch.unique(added)) > 0.99 * added.numel()


def test_learners_that_cannot_train_together_are_refused() -> None:
    """contract: another length, batch or clipping, and networks that cannot be stacked."""
    inputs = Inputs(TABLE, np.arange(12), "cpu")
    for change in ({"epochs": 2}, {"batch_size": 5}, {"warmup_epochs": 0.5}, {"clip_norm": 1.0}):
        recipes = [Recipe(), Recipe(**change)]
        learners = [TrainJob(nn.Sequential(nn.Linear(6, 2)), recipe, 0, inputs) for recipe in recipes]
        with pytest.raises(ValueError, match="networks that train together need the same epochs, batch_size"):
            fit(learners, TOTAL)
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (Counter(), Counter()),
        (nn.Sequential(nn.Linear(6, 2)), nn.Sequential(nn.Linear(6, 3))),
        (nn.Sequential(nn.Linear(6, 2)), Counter()),
    ]
    for pair in pairs:
        with pytest.raises(ValueError, match="cannot be stacked"):
            fit([TrainJob(network, Recipe(), 0, inputs) for network in pair], TOTAL)
