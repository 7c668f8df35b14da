"""The training loop: reproducible bit by bit, exact in its schedule, loud when it diverges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, pad

from distillery.config import Augment, Recipe
from distillery.training import augment
from distillery.training import fit as loop
from distillery.training.fit import Inputs, fit, predict, seeded

GENERATOR = np.random.default_rng(0)
TABLE = GENERATOR.normal(size=(50, 6)).astype(np.float32)
IMAGES = GENERATOR.integers(0, 256, (50, 2, 8, 8), np.uint8)
LABELS = torch.from_numpy(GENERATOR.integers(0, 3, 50))


def trained(recipe: Recipe, seed: int = 0, rows: np.ndarray = TABLE) -> tuple[torch.Tensor, list[dict[str, float]]]:
    """All weights of a small network with dropout after training, and the history."""
    with seeded(1):
        size = int(np.prod(rows.shape[1:]))
        network = nn.Sequential(nn.Flatten(), nn.Linear(size, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    inputs = Inputs(rows, np.arange(40), "cpu")
    history = fit(network, inputs, lambda z, i: cross_entropy(z, LABELS[i]), recipe, seed=seed)
    return torch.cat([p.detach().flatten() for p in network.parameters()]), history


RECIPES = {
    "plain": (Recipe(epochs=2, batch_size=16), TABLE),
    "clipped": (Recipe(epochs=2, batch_size=16, clip_norm=0.1), TABLE),
    "noisy": (Recipe(epochs=2, batch_size=16, augment=Augment(noise=0.2)), TABLE),
    "augmented": (Recipe(epochs=2, batch_size=16, augment=Augment(shift=0.25, flip=True)), IMAGES),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_seed_decides_every_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """determinism: the same seed gives the same bits, in memory or read batch by batch; another seed gives others."""
    recipe, rows = RECIPES[name]
    first, history = trained(recipe, 0, rows)
    torch.rand(7)
    second, _ = trained(recipe, 0, rows)
    assert torch.equal(first, second) and len(history) == 2
    assert not torch.equal(first, trained(recipe, 1, rows)[0])
    monkeypatch.setattr(loop, "RESIDENT_BYTES", 0)
    assert torch.equal(first, trained(recipe, 0, rows)[0])


def test_global_randomness_is_left_alone() -> None:
    """property: torch's global generator is where it was, after training and after a block that raised."""
    before = torch.random.get_rng_state()
    trained(RECIPES["plain"][0])
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


def walked(recipe: Recipe, rows: int = 12) -> tuple[np.ndarray, list[list[int]]]:
    """Learning rate of every step, and the positions of every batch."""
    network, places, batches = Counter(), [], []

    def objective(logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        places.append(network.place.item())
        batches.append(positions.tolist())
        return logits.mean()

    fit(network, Inputs(np.zeros((rows, 1), np.float32), np.arange(rows), "cpu"), objective, recipe, seed=0)
    return -np.diff([*places, network.place.item()]), batches


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
    _, batches = walked(Recipe(epochs=30, batch_size=batch_size), rows)
    assert len(batches) == 30 * steps and {len(b) for b in batches} == {size}
    epochs = [[i for b in batches[e * steps : (e + 1) * steps] for i in b] for e in range(30)]
    assert all(len(set(e)) == steps * size for e in epochs)
    assert {i for e in epochs for i in e} == set(range(rows))


def test_weight_decay_spares_biases() -> None:
    """reference: with a zero gradient a matrix shrinks by (1 - lr · decay) each step, and a bias stays."""
    network = nn.Linear(3, 2)
    matrix, bias = network.weight.detach().clone(), network.bias.detach().clone()
    recipe = Recipe(epochs=1, batch_size=10, lr=0.1, weight_decay=0.5, warmup_epochs=0)
    fit(network, Inputs(TABLE[:, :3], np.arange(10), "cpu"), lambda z, _: 0 * z.sum(), recipe, seed=0)
    torch.testing.assert_close(network.weight.detach(), matrix * 0.95)
    assert torch.equal(network.bias.detach(), bias)


def test_a_loss_that_is_no_number_is_told() -> None:
    """contract: the error names the model, the epoch and the step."""
    calls: list[int] = []

    def objective(logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return logits.sum() * (math.nan if len(calls) == 5 else 1.0)

    with pytest.raises(FloatingPointError, match=r"^teacher 'x': the loss became nan in epoch 2, step 2;"):
        fit(Counter(), Inputs(TABLE, np.arange(12), "cpu"), objective, Recipe(batch_size=4), seed=0, what="teacher 'x'")


def test_every_epoch_is_reported_and_can_stop() -> None:
    """contract: one record per epoch with loss, seconds and validation; an exception from `on_epoch` ends it."""
    seen: list[tuple[int, dict[str, float]]] = []

    def on_epoch(epoch: int, record: dict[str, float]) -> None:
        seen.append((epoch, record))
        if epoch == 2:
            raise InterruptedError

    arguments: dict[str, Any] = {"seed": 0, "validate": lambda: {"val/nll": 0.5}, "on_epoch": on_epoch}
    with pytest.raises(InterruptedError):
        fit(Counter(), Inputs(TABLE, np.arange(12), "cpu"), lambda z, _: z.sum(), Recipe(), **arguments)
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert all(set(r) == {"train_loss", "seconds", "val/nll"} and r["val/nll"] == 0.5 for _, r in seen)


@pytest.mark.parametrize(("chosen", "expected"), [(None, [1, 2, 3, 4]), (range(3, 9), [3, 4]), ({2}, [2]), ((), [])])
def test_validation_runs_where_it_is_asked_for(chosen: Any, expected: list[int]) -> None:
    """contract: figures are made after the given epochs alone and change no step; all epochs are recorded."""
    calls: list[int] = []

    def validate() -> dict[str, float]:
        calls.append(1)
        return {"val/nll": float(len(calls))}

    inputs, recipe = Inputs(TABLE, np.arange(12), "cpu"), Recipe(epochs=4, batch_size=4)
    networks = [Counter(), Counter()]
    history = fit(networks[0], inputs, lambda z, _: z.sum(), recipe, seed=0, validate=validate, validate_at=chosen)
    fit(networks[1], inputs, lambda z, _: z.sum(), recipe, seed=0)
    assert [epoch for epoch, record in enumerate(history, 1) if "val/nll" in record] == expected
    assert len(history) == 4 and len(calls) == len(expected)
    assert torch.equal(networks[0].place, networks[1].place)


class Dealt:
    """Seven items per epoch out of a hundred, in an order of its own, each with its number as its input."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.taken: list[torch.Tensor] = []

    def __len__(self) -> int:
        return 7

    def order(self, epoch: int, generator: torch.Generator) -> torch.Tensor:
        """Items that tell the epoch."""
        self.epochs.append(epoch)
        return 10 * epoch + torch.tensor([3, 0, 6, 2, 5, 1, 4])

    def take(self, items: torch.Tensor) -> torch.Tensor:
        """Their numbers."""
        self.taken.append(items)
        return items[:, None].float()


@pytest.mark.parametrize(("batch_size", "batches"), [(3, [[3, 0, 6], [2, 5, 1]]), (64, [[3, 0, 6, 2, 5, 1, 4]])])
def test_batches_decide_what_is_shown(batch_size: int, batches: list[list[int]]) -> None:
    """contract: epochs count from 1, items come in the given order and reach `take`, network and objective alike."""
    dealt, network, seen = Dealt(), nn.Linear(1, 2), []
    handed: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda _module, arguments: handed.append(arguments[0]))

    def objective(logits: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        seen.append(items.tolist())
        return logits.square().mean()

    fit(network, dealt, objective, Recipe(epochs=2, batch_size=batch_size), seed=0)
    assert dealt.epochs == [1, 2]
    assert seen == [[10 * epoch + item for item in batch] for epoch in (1, 2) for batch in batches]
    assert [items.tolist() for items in dealt.taken] == [h[:, 0].long().tolist() for h in handed] == seen


@pytest.mark.parametrize("limit", [0, 2 << 30])
def test_inputs_are_the_rows_of_a_split(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: numpy's own indexing, in memory or by the batch; every epoch is a shuffle of all places."""
    monkeypatch.setattr(loop, "RESIDENT_BYTES", limit)
    rows, places = np.array([7, 3, 40, 11]), torch.tensor([2, 0, 2])
    for source in (TABLE, IMAGES):
        inputs = Inputs(source, rows, "cpu")
        found = inputs.take(places)
        assert len(inputs) == 4 and found.dtype == torch.float32
        assert np.array_equal(found.numpy(), source[rows[places.numpy()]].astype(np.float32))
        orders = [inputs.order(e, torch.Generator().manual_seed(e)).tolist() for e in range(20)]
        assert all(sorted(o) == [0, 1, 2, 3] for o in orders) and len({tuple(o) for o in orders}) > 5


def test_predictions_do_not_depend_on_the_batch() -> None:
    """reference: the network in evaluation mode, row by row."""
    network = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 3))
    expected = [network.eval()(torch.from_numpy(row)).tolist() for row in TABLE]
    for size in (1, 7, 64):
        network.train()
        np.testing.assert_allclose(predict(network, TABLE, batch_size=size), expected, atol=1e-6)


@given(st.integers(0, 999), st.floats(0, 0.5), st.integers(2, 9))
def test_shift_moves_each_image_as_a_whole(seed: int, share: float, side: int) -> None:
    """reference: every result is a window of the image with its edges repeated, found by trying them all."""
    images = torch.rand(3, 2, side, side, generator=torch.Generator().manual_seed(seed))
    moved = augment.shift(images, share, torch.Generator().manual_seed(seed))
    reach = round(share * side)
    padded = pad(images, (reach,) * 4, mode="replicate")
    places = range(2 * reach + 1)
    for before, after in zip(padded, moved, strict=True):
        windows = [before[:, y : y + side, x : x + side] for y in places for x in places]
        assert any(torch.equal(after, window) for window in windows)


@given(st.integers(0, 999))
def test_flip_mirrors_some_and_is_undone_by_itself(seed: int) -> None:
    """property: each image is itself or its mirror image, and flipping the same ones again gives the first ones."""
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(seed))

    def again(batch: torch.Tensor) -> torch.Tensor:
        return augment.flip(batch, torch.Generator().manual_seed(seed))

    assert all(torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(again(images), images, strict=True))
    assert torch.equal(again(again(images)), images)


@given(st.integers(0, 999), st.floats(0.01, 3))
def test_noise_is_normal_and_of_the_size_asked_for(seed: int, deviation: float) -> None:
    """property: what is added has mean 0 and deviation 1 in units of `deviation`, drawn from the generator alone."""
    rows = torch.randn(100, 30, generator=torch.Generator().manual_seed(seed))
    noisy = augment.noise(rows, deviation, torch.Generator().manual_seed(seed + 1))
    added = (noisy - rows) / deviation
    assert abs(added.mean()) < 0.1 and abs(added.std() - 1) < 0.1
    assert torch.equal(noisy, augment.noise(rows, deviation, torch.Generator().manual_seed(seed + 1)))


@pytest.mark.parametrize("change", [lambda x, g: augment.shift(x, 0.25, g), augment.flip], ids=["shift", "flip"])
def test_every_change_is_drawn(change: Callable[[torch.Tensor, torch.Generator], torch.Tensor]) -> None:
    """property: over many images, some stay and some change, each on its own."""
    images = torch.from_numpy(IMAGES).float()
    moved = change(images, torch.Generator().manual_seed(0))
    same = [torch.equal(a, b) for a, b in zip(moved, images, strict=True)]
    assert 0 < sum(same) < len(same)
