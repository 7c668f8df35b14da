"""Networks that train together: each is what it is alone. K learners, B rows, F features, C classes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distillery.config.experiment import Augment, Recipe
from distillery.losses import LOSSES
from distillery.models import MODELS, InputSpec
from distillery.training import fit as loop
from distillery.training.feed import Inputs
from distillery.training.fit import TrainJob, TrainResult, Validation, fit, of_each
from distillery.training.objectives import Answers, Labels, Objective, Taught
from distillery.training.single import predict
from distillery.training.stackable import stackable
from distillery.training.stacked import Stack
from distillery.training.state import seeded

GENERATOR = torch.Generator().manual_seed(0)
ROWS, CLASSES = 60, 3
TABLE = torch.randn(ROWS, 5, generator=GENERATOR).numpy()
LABELS = torch.randint(0, CLASSES, (ROWS,), generator=GENERATOR)
TEACHER = 2 * torch.randn(ROWS, CLASSES, generator=GENERATOR)
NUMBERS = tuple(tuple((float(v), 1) for v in sorted(column)) for column in TABLE.T)
SPEC = InputSpec("table", (5,), CLASSES, numbers=NUMBERS)
EVERYONE = (0, 1, 2, 3)
APART = 2e-4  # what rounding makes of three epochs

# what is a learner's own
RATES, DECAYS, NOISES = (0.01, 0.02, 0.005, 0.01), (0.1, 1.0, 0.0, 0.5), (0.2, 0.2, 0.0, 0.5)
TEMPERATURES, ALPHAS, SMOOTHINGS = (1.0, 2.0, 4.0, 3.0), (0.5, 0.7, 1.0, 0.9), (0.0, 0.1, 0.0, 0.2)
OPTIONS: dict[str, list[dict[str, float]]] = {
    "dkd": [{"target_weight": w, "beta": b} for w, b in ((1.0, 1.0), (0.5, 2.0), (1.0, 4.0), (0.0, 3.0))],
    "dist": [{"beta": b, "gamma": g} for b, g in ((1.0, 1.0), (0.5, 2.0), (2.0, 0.0), (1.0, 3.0))],
    "mse": [{"clip": c} for c in (1.0, 2.0, float("inf"), 3.0)],
    "lskd": [{"weight": w} for w in (1.0, 2.0, 9.0, 4.0)],
    "wsld": [{"weight": w} for w in (1.0, 2.0, 2.5, 4.0)],
}
SHOWY = ("dist", "lskd")  # they divide by the logits' own spread, which makes much of rounding
ONE_SEED, SEEDS = (1, 1, 1, 1), (1, 2, 1, 3)


@dataclass(frozen=True)
class Case:
    """Four learners."""

    loss: str = "kd"
    model: dict[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = ONE_SEED
    shared: dict[str, Any] = field(default_factory=dict)
    some_unknown: bool = False
    rates: Sequence[float] = RATES

    def learners(self, which: Sequence[int]) -> list[TrainJob]:
        """Some of them, untrained."""
        inputs = Inputs(TABLE, np.arange(ROWS), "cpu")
        recipe = Recipe(**{"epochs": 3, "batch_size": 16, **self.shared})
        found = []
        for i in which:
            with seeded(self.seeds[i]):
                network = MODELS["mlp"](SPEC, **{"hidden": [10, 8], **self.model})
            own = {"lr": self.rates[i], "weight_decay": DECAYS[i], "augment": Augment(noise=NOISES[i])}
            found.append(TrainJob(network, recipe.model_copy(update=own), self.seeds[i], inputs))
        return found

    def objective(self, which: Sequence[int]) -> Objective:
        """Their objective; ``labels`` is the cross-entropy alone."""
        known = torch.arange(ROWS) % 3 > 0 if self.some_unknown else None
        answers, smoothings = Answers(LABELS, known, CLASSES), [SMOOTHINGS[i] for i in which]
        if self.loss == "labels":
            return Labels(answers, smoothings)
        own = ([values[i] for i in which] for values in (OPTIONS.get(self.loss, [{}] * 4), TEMPERATURES, ALPHAS))
        return Taught(TEACHER, answers, self.loss, *own, smoothings)

    def train(self, which: Sequence[int], **more: Any) -> tuple[list[nn.Module], list[TrainResult]]:
        """Some of them, trained together."""
        learners = self.learners(which)
        results = fit(learners, self.objective(which), **more)
        return [each.network for each in learners], results


def difference(a: nn.Module, b: nn.Module) -> float:
    """The largest difference between two networks' weights."""
    return max(float((p - q).detach().abs().max()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`Case.train` by torch's own means."""

    def train(case: Case, which: Sequence[int], **more: Any) -> tuple[list[nn.Module], list[TrainResult]]:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "stackable", lambda networks: False)
            return case.train(which, **more)

    return train


CLIPPED = {"clip_norm": 0.05}
CASES = {
    "labels": Case("labels"),
    "labels, clipped, seeds": Case("labels", seeds=SEEDS, shared=CLIPPED),
    **{name: Case(name) for name in LOSSES.names() if name not in SHOWY},
    **{f"{name}, clipped, seeds": Case(name, seeds=SEEDS, shared=CLIPPED) for name in ("dkd", "mse")},
    "gelu": Case(model={"activation": "gelu"}),
    "gelu, clipped, seeds": Case(model={"activation": "gelu"}, seeds=SEEDS, shared=CLIPPED),
    "silu": Case("wsld", model={"activation": "silu"}, shared=CLIPPED),
    "silu, seeds": Case(model={"activation": "silu"}, seeds=SEEDS),
    "clipped": Case(shared=CLIPPED),
    "seeds": Case(seeds=SEEDS),
    "bins": Case(model={"bins": 4}),
    "bins, seeds": Case(model={"bins": 4}, seeds=SEEDS),
    "some labels unknown": Case("wttm", some_unknown=True, seeds=SEEDS),
    "no hidden layer": Case(model={"hidden": []}),
    "a short last batch is left out": Case(shared={"batch_size": 25, "warmup_epochs": 0.5}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_member_is_what_it_is_alone(name: str, alone: Callable[..., Any]) -> None:
    """reference: the same network in a stack of one, and trained by torch's own means, to rounding; so are its
    figures."""
    case = CASES[name]
    validation = Validation(TABLE, of_each(lambda logits: {"sum": float(np.abs(logits).sum())}))
    networks, results = case.train(EVERYONE, validation=validation)
    assert min(difference(a, b) for a, b in pairwise(networks)) > 10 * APART
    for place in EVERYONE:
        for train in (case.train, lambda which, **more: alone(case, which, **more)):
            (network,), (result,) = train([place], validation=validation)
            assert difference(network, networks[place]) < APART
            sums = [[record["sum"] for record in each.history] for each in (result, results[place])]
            assert sums[0] == pytest.approx(sums[1], rel=1e-3) and len(sums[0]) == 3


@pytest.mark.parametrize("name", ["labels", "kd", "mse"])
def test_the_losses_of_a_member_are_those_alone(name: str, alone: Callable[..., Any]) -> None:
    """reference: the same steps are looked at, whether a loss's gradient is written out or not."""
    case = Case(name, shared={"batch_size": 6})
    _, results = case.train(EVERYONE)
    for place in EVERYONE:
        _, (result,) = alone(case, [place])
        losses = [[record["train_loss"] for record in each.history] for each in (result, results[place])]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("seeds", [ONE_SEED, SEEDS], ids=["one seed", "seeds"])
@pytest.mark.parametrize("name", LOSSES.names())
def test_the_first_gradient_is_autograds(name: str, seeds: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: of all weights, after a step on all rows; for the losses that make much of rounding as well."""
    case = Case(name, seeds=seeds, shared={"epochs": 1, "batch_size": ROWS}, some_unknown=True)
    together = loop._Fit(case.learners(EVERYONE), case.objective(EVERYONE), "cpu")
    together.run(None, None)
    assert isinstance(together.engine, Stack)
    found = [part for pair in together.engine._gradients for part in pair]
    monkeypatch.setattr(loop, "stackable", lambda networks: False)
    for place in EVERYONE:
        (learner,) = case.learners([place])
        fit([learner], case.objective([place]))
        for mine, parameter in zip(found, learner.network.parameters(), strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(mine[place].view_as(parameter), parameter.grad, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("seeds", [ONE_SEED, SEEDS], ids=["one seed", "seeds"])
def test_dropout_is_the_members_own(seeds: Sequence[int]) -> None:
    """reference: the same network in a stack of one, which drops the same units; without dropout it is another."""
    case = Case(model={"dropout": 0.3}, seeds=seeds)
    networks, _ = case.train(EVERYONE)
    for place in EVERYONE:
        (network,), _ = case.train([place])
        assert difference(network, networks[place]) < APART
        (still,), _ = Case(seeds=seeds).train([place])
        assert difference(still, network) > 10 * APART


def test_dropped_units_are_the_share_asked_for() -> None:
    """property: of ones through a layer that changes nothing, 30 % are dropped and the others are scaled to a mean
    of one; in evaluation none is."""
    wide = 400
    network = nn.Sequential(nn.Linear(1, wide), nn.ReLU(), nn.Dropout(0.3), nn.Linear(wide, wide))
    with torch.no_grad():
        for layer, weight, bias in ((network[0], 0.0, 1.0), (network[3], torch.eye(wide), 0.0)):
            layer.weight.copy_(torch.as_tensor(weight).expand_as(layer.weight))
            layer.bias.fill_(bias)
    seen: list[torch.Tensor] = []

    class Watching(Labels):
        """Notes the logits of each batch."""

        def of(self, learners: torch.Tensor) -> Watching:
            """The same for all."""
            return self

        def gradients(self, logits: torch.Tensor, *rest: Any) -> Any:
            """As ever."""
            seen.append(logits.clone())
            return super().gradients(logits, *rest)

    inputs, recipe = Inputs(np.ones((100, 1), np.float32), np.arange(100), "cpu"), Recipe(epochs=1, batch_size=50)
    recipe = recipe.model_copy(update={"lr": 1e-9})
    objective = Watching(Answers(torch.zeros(100, dtype=torch.long), None, wide), [0.0])
    fit([TrainJob(network, recipe, 0, inputs)], objective)
    values = torch.cat([part[0] for part in seen])
    dropped = values < 0.5
    torch.testing.assert_close(values, torch.where(dropped, 0.0, 1 / 0.7), atol=1e-4, rtol=0)
    assert float(dropped.float().mean()) == pytest.approx(0.3, abs=0.01)
    assert len(torch.unique(dropped.sum(1))) > 10 and len(torch.unique(dropped, dim=0)) == 100
    np.testing.assert_allclose(predict(network, np.ones((3, 1), np.float32)), 1, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_dropped_units_get_no_gradient(activation: str) -> None:
    """reference: autograd's gradients of the network written out with the same units dropped, layer by layer."""
    case = Case("labels", model={"dropout": 0.4, "activation": activation})
    learners, objective, drawn = case.learners(EVERYONE), case.objective(EVERYONE), []
    items, generator = torch.arange(16)[None], torch.Generator().manual_seed(0)

    def draw(shape: tuple[int, ...]) -> torch.Tensor:
        drawn.append(torch.rand(1, *shape, generator=generator))
        return drawn[-1]

    stack, rows = (
        Stack([e.network for e in learners], [e.recipe for e in learners], "cpu"),
        torch.from_numpy(TABLE[:16]),
    )
    stack.step(stack.laid_out(rows[None]), objective, objective.gather(items), 1.0, draw, False)
    found = [part for pair in stack._gradients for part in pair]
    for place, learner in enumerate(learners):
        values, masks = rows, iter(drawn)
        for layer in learner.network:
            keeps = (next(masks)[0].T >= 0.4) / 0.6 if isinstance(layer, nn.Dropout) else 1.0
            values = values * keeps if isinstance(layer, nn.Dropout) else layer(values)
        own = case.objective([place])
        own.losses(values[None], own.gather(items)).sum().backward()
        for mine, parameter in zip(found, learner.network.parameters(), strict=True):
            torch.testing.assert_close(mine[place].view_as(parameter), parameter.grad, rtol=1e-3, atol=1e-6)


def test_the_same_call_gives_the_same_bits() -> None:
    """determinism: in one process, whatever was drawn before."""
    case = Case("dkd", seeds=SEEDS, model={"dropout": 0.2})
    first, _ = case.train(EVERYONE)
    torch.rand(5)
    again, _ = case.train(EVERYONE)
    assert all(difference(a, b) == 0 for a, b in zip(first, again, strict=True))


LEAVERS: dict[str, dict[int, list[int]]] = {
    "at once": {1: [0, 2]},
    "one by one": {1: [3], 2: [0]},
    "to the last": {1: [1], 2: [0, 2, 3]},
}


@pytest.mark.parametrize("model", [{}, {"dropout": 0.2}, {"bins": 3}], ids=["plain", "dropout", "bins"])
@pytest.mark.parametrize("seeds", [ONE_SEED, SEEDS], ids=["one seed", "seeds"])
@pytest.mark.parametrize("leavers", LEAVERS)
def test_members_that_leave_are_as_they_were(leavers: str, seeds: Sequence[int], model: dict[str, Any]) -> None:
    """reference: those that stay end as if the others had never been there; those that leave have the weights of their
    last epoch, told by their figures, and say that they were stopped."""
    case, leave = Case("wttm", seeds=seeds, model=model), LEAVERS[leavers]
    seen: list[set[int]] = []

    def on_epochs(epoch: int, records: dict[int, dict[str, float]]) -> Collection[int]:
        seen.append(set(records))
        return leave.get(epoch, [])

    figures = Validation(TABLE, of_each(lambda logits: {"sum": float(np.abs(logits.astype(np.float64)).sum())}))
    networks, results = case.train(EVERYONE, validation=figures, on_epochs=on_epochs)
    staying = [i for i in EVERYONE if not any(i in gone for gone in leave.values())]
    expected = {1: set(EVERYONE), 2: set(EVERYONE) - set(leave[1]), 3: set(staying)}
    assert seen == [who for who in expected.values() if who]
    whole, _ = case.train(staying) if staying else ([], [])
    for place, network in zip(staying, whole, strict=True):
        assert difference(network, networks[place]) < APART and not results[place].stopped
    for epoch, gone in leave.items():
        for place in gone:
            assert results[place].stopped and len(results[place].history) == epoch
            logits = predict(networks[place], TABLE)
            assert np.abs(logits.astype(np.float64)).sum() == pytest.approx(results[place].history[-1]["sum"], rel=1e-5)
            (single,), _ = case.train([place], on_epochs=lambda e, _, last=epoch: [0] if e == last else [])
            assert difference(single, networks[place]) < APART


@pytest.mark.parametrize("loss", ["labels", "kd", "mse"])
def test_one_that_diverges_fails_alone(loss: str) -> None:
    """contract: its result says so and keeps the epochs before; the others end as without it."""
    case = Case(loss, seeds=SEEDS, rates=(0.01, 1e30, 0.005, 0.01))
    networks, results = case.train(EVERYONE)
    assert [result.error is None for result in results] == [True, False, True, True]
    assert "in epoch 1; a lower lr may help" in str(results[1].error) and results[1].history == []
    others, _ = case.train([0, 2, 3])
    for place, network in zip([0, 2, 3], others, strict=True):
        assert difference(network, networks[place]) < APART
        assert len(results[place].history) == 3


def test_a_stack_learns() -> None:
    """property: labels that the inputs tell are learned by all members, whose answers are in the order of members."""
    labels = torch.from_numpy((TABLE[:, 0] > 0).astype(np.int64))
    learners = Case(shared={"epochs": 60}, rates=(0.02,) * 4).learners(EVERYONE)
    fit(learners, Labels(Answers(labels, None, CLASSES), [0.0] * 4))
    assert all((predict(each.network, TABLE).argmax(1) == labels.numpy()).mean() > 0.9 for each in learners)


PLAIN = [nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)]
SHAPES: list[tuple[str, list[nn.Module], bool]] = [
    ("as it is", PLAIN, True),
    ("no hidden layer", [nn.Linear(5, 3)], True),
    ("dropout", [nn.Linear(5, 4), nn.SiLU(), nn.Dropout(0.1), nn.Linear(4, 3)], True),
    ("another activation", [nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)], False),
    ("no activation", [nn.Linear(5, 4), nn.Linear(4, 3)], False),
    ("no bias", [nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)], False),
    ("statistics", [nn.BatchNorm1d(5), *PLAIN], False),
    ("flattened", [nn.Flatten(), *PLAIN], False),
    ("dropped inputs", [*PLAIN[:2], nn.Linear(4, 3), nn.Dropout(0.1)], False),
    ("activation at the end", [*PLAIN, nn.ReLU()], False),
    ("nothing to learn", [nn.ReLU()], False),
]


@pytest.mark.parametrize(("layers", "expected"), [(layers, e) for _, layers, e in SHAPES], ids=[n for n, *_ in SHAPES])
def test_what_can_be_stacked(layers: list[nn.Module], expected: bool) -> None:
    """contract: sequences of linear layers with known activations and dropout between them, all of one shape."""
    network = nn.Sequential(*layers)
    assert stackable([network]) == stackable([network, network]) == expected
    assert not stackable([network, nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))])
    assert not stackable([PLAIN[0]])


def test_the_trait_says_which_families_stack() -> None:
    """contract: a family that says so for a kind of data builds networks that can be stacked, whatever its options."""
    assert {
        name: MODELS.traits(name).get("stacks", ()) for name in MODELS.names() if MODELS.traits(name).get("stacks")
    } == {"mlp": ("table",)}
    for activation in ("relu", "gelu", "silu"):
        for more in ({}, {"dropout": 0.2}, {"bins": 3}, {"bins": 3, "dropout": 0.1}):
            networks = [MODELS["mlp"](SPEC, hidden=[4, 4], activation=activation, **more) for _ in range(2)]
            assert stackable(networks)
    image = InputSpec("image", (1, 4, 4), 3, (1.0,), (1.0,))
    assert not stackable([MODELS["mlp"](image, hidden=[4])])
