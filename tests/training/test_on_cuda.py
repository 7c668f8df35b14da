"""Training and predicting on a GPU: what a CPU would give, without a wait for the GPU in a step.

On a pretended GPU (pretended_cuda.py). What is drawn on a GPU itself is left out where numbers are compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pretended_cuda import Seen, pretended_cuda
from tiny_chain import Chain
from torch import nn
from trials import proposed

from distillery.config.experiment import Augment, Recipe
from distillery.config.search_space import Setting
from distillery.devices import AUTO
from distillery.losses import LOSSES
from distillery.memory import VARIABLE
from distillery.models import MODELS, InputSpec
from distillery.ops.images import Normalised
from distillery.stages.logits import logit_cache as logits
from distillery.stages.search import trials
from distillery.stages.students import student_training
from distillery.stages.teachers import teacher_training
from distillery.store import Store
from distillery.training import streams
from distillery.training.feed import Inputs
from distillery.training.fit import TrainJob, TrainResult, Validation, fit, of_each
from distillery.training.objectives import Answers, Labels, Objective, Taught
from distillery.training.single import predict
from distillery.training.state import seeded

GENERATOR = np.random.default_rng(0)
TABLE = GENERATOR.normal(size=(120, 6)).astype(np.float32)
IMAGES = GENERATOR.integers(0, 256, (60, 3, 12, 12), np.uint8)
LABELS = torch.from_numpy(GENERATOR.integers(0, 3, 120))
TEACHER = torch.from_numpy(2 * GENERATOR.normal(size=(120, 3)).astype(np.float32))
KNOWN = torch.arange(120) % 3 > 0
MOVED = Augment(shift=0.2, flip=True, brightness=0.3)
DEVICES = ("cpu", "cuda")


class Small(nn.Module):
    """A network for images that cannot be stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.last(self.norm(self.first(images)).relu().mean((2, 3)))


def stack(count: int = 3, **options: Any) -> list[nn.Module]:
    """Perceptrons that train together."""
    numbers = tuple(tuple((float(v), 1) for v in sorted(column)) for column in TABLE.T)
    spec = InputSpec("table", (6,), 3, numbers=numbers)
    made = []
    for seed in range(count):
        with seeded(seed):
            made.append(MODELS["mlp"](spec, **{"hidden": [8, 5], **options}))
    return made


def image_network() -> list[nn.Module]:
    """One network, with the normalisation that training takes out of it."""
    with seeded(0):
        return [Normalised(Small(), (120.0, 110.0, 100.0), (60.0, 50.0, 45.0))]


def objective(loss: str, device: str, count: int, some_unknown: bool = False) -> Objective:
    """What the networks learn, each in its own way."""
    answers = Answers(LABELS.to(device), KNOWN.to(device) if some_unknown else None, 3)
    smoothing = [0.0, 0.1, 0.2][:count]
    if loss == "labels":
        return Labels(answers, smoothing)
    options = [LOSSES.check(loss, {})] * count
    temperatures, alphas = [1.0, 2.0, 4.0][:count], [1.0, 0.5, 0.8][:count]
    return Taught(TEACHER.to(device), answers, loss, options, temperatures, alphas, smoothing)


def train(
    networks: list[nn.Module], rows: np.ndarray, device: str, recipe: Recipe, loss: str = "kd", **more: Any
) -> list[TrainResult]:
    """Trains the networks, with validation after every epoch."""
    inputs = Inputs(rows, np.arange(len(rows)), device)
    learners = [TrainJob(network, recipe, seed % 2, inputs) for seed, network in enumerate(networks)]
    validation = Validation(
        rows, of_each(lambda logits: {"sum": float(np.abs(logits).sum())}), rows=np.arange(0, len(rows), 2)
    )
    return fit(learners, objective(loss, device, len(networks), **more), device=device, validation=validation)


def weights(networks: list[nn.Module]) -> list[torch.Tensor]:
    """All weights and buffers, on the CPU."""
    return [value.detach().cpu().clone() for network in networks for value in network.state_dict().values()]


CASES: dict[str, tuple[dict[str, Any], np.ndarray, dict[str, Any]]] = {
    "labels": ({}, TABLE, {"loss": "labels"}),
    "kd, clipped": ({"clip_norm": 0.5}, TABLE, {"loss": "kd"}),
    "mse, some labels unknown": ({}, TABLE, {"loss": "mse", "some_unknown": True}),
    "images": ({}, IMAGES, {"loss": "labels"}),
    "moved images, clipped": ({"clip_norm": 0.5, "augment": MOVED}, IMAGES, {"loss": "kd"}),
}


@pytest.mark.parametrize("kept", [True, False], ids=["kept on the GPU", "read by the batch"])
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_trains_as_a_cpu_does(name: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: weights, statistics and history of the CPU, to the rounding of another order of pixels in memory."""
    changes, rows, options = CASES[name]
    recipe, found = Recipe(epochs=2, batch_size=16, lr=0.01, **changes), {}
    monkeypatch.setattr(streams, "BLOCK_NUMBERS", 1)
    for device in DEVICES:
        networks = stack() if rows is TABLE else image_network()
        with pretended_cuda():
            if device == "cuda" and not kept:
                monkeypatch.setenv(VARIABLE, "0")
            results = train(networks, rows, device, recipe, **options)
            found[device] = (weights(networks), [[r["train_loss"], r["sum"]] for c in results for r in c.history])
    torch.testing.assert_close(found["cuda"][0], found["cpu"][0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["cuda"][1], found["cpu"][1], rtol=1e-4)


def seen_in(epochs: int, batch_size: int, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What was seen in a training with everything that is drawn, each batch prepared by itself."""
    monkeypatch.setattr(streams, "BLOCK_NUMBERS", 1)
    augment = Augment(noise=0.1) if rows is TABLE else MOVED.model_copy(update={"noise": 0.1})
    clip_norm = 1.0 if rows is TABLE else None  # see pretended_cuda.py
    recipe = Recipe(epochs=epochs, batch_size=batch_size, clip_norm=clip_norm, augment=augment)
    networks = stack(dropout=0.2) if rows is TABLE else image_network()
    with pretended_cuda(autocast=True) as seen:
        train(networks, rows, "cuda", recipe, "mse", some_unknown=True)
    return seen


@pytest.mark.parametrize("memory", ["100", "0"], ids=["kept on the GPU", "read by the batch"])
@pytest.mark.parametrize("rows", [TABLE, IMAGES], ids=["stack", "alone"])
def test_nobody_waits_for_the_gpu_in_a_step(rows: np.ndarray, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """budget: twice in an epoch (losses, validation) and once for each network at the end, whatever the steps; noise
    and dropout do not come from the CPU, and what does comes from pinned memory."""
    monkeypatch.setenv(VARIABLE, memory)
    few, many = (seen_in(1, size, rows, monkeypatch) for size in (30, 10))
    longer = seen_in(3, 10, rows, monkeypatch)
    networks = 3 if rows is TABLE else 1
    assert [sum(seen.waits.values()) for seen in (few, many, longer)] == [2 + networks, 2 + networks, 6 + networks]
    assert few.pageable == many.pageable == longer.pageable


def test_the_gpu_keeps_what_it_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """golden: an eighth of its free memory, of each thing; DISTILLERY_MEMORY_MB says otherwise."""
    monkeypatch.delenv(VARIABLE, raising=False)
    size = IMAGES.nbytes
    for free_bytes, megabytes, kept in ((8 * size, None, True), (8 * size - 8, None, False), (8 * size, "0", False)):
        if megabytes is not None:
            monkeypatch.setenv(VARIABLE, megabytes)
        with pretended_cuda(free_bytes=free_bytes):
            shown = Inputs(IMAGES, np.arange(60), "cuda").take(torch.tensor([3, 59]))
            assert shown.is_cuda == kept
            assert np.array_equal(shown.cpu().numpy(), IMAGES[[3, 59]])


def test_a_network_that_has_predicted_on_a_gpu_can_be_trained() -> None:
    """contract: it is moved before torch's inference mode begins, whose tensors take part in no training."""
    network = nn.Linear(6, 3)
    with pretended_cuda():
        predict(network, TABLE, device="cuda")
        assert all(p.is_cuda and not p.is_inference() for p in network.parameters())
        train([network], TABLE, "cuda", Recipe(epochs=1), "labels")


def test_a_network_with_kernels_in_space_trains_on_a_gpu() -> None:
    """contract: torch has no channels-last format for the weights of a Conv3d."""
    network = nn.Sequential(nn.Unflatten(1, (1, 1, 2, 3)), nn.Conv3d(1, 2, 1), nn.Flatten(), nn.Linear(12, 3))
    with pretended_cuda():
        (result,) = train([network], TABLE, "cuda", Recipe(epochs=1), "labels")
    assert result.error is None


def test_the_stages_that_train_do_so_on_a_gpu(chain: Chain, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: teachers, logits, trials and students of the tiny experiment are the CPU's; the device is decided by
    the process that computes."""
    (member,), config = chain.config.teachers.members, chain.config
    small = config.student.capacities[0]
    wanted = [student_training.TrainingRequest(Setting(temperature=2.0, alpha=0.7), seed) for seed in (1, 2)]
    settings = (Setting(), Setting(lr=0.02))
    job = trials.Job(config, chain.data, chain.ensemble, tuple(chain.taught), small, proposed(*settings), AUTO)
    found, answers = {}, {}
    for device in DEVICES:
        monkeypatch.setenv("DISTILLERY_DEVICE", device)
        store = Store(tmp_path / device)
        with pretended_cuda() as seen:
            recipe = config.teachers.recipe_of(member)
            taught = (config.student, chain.data, chain.ensemble, chain.taught, store)
            made = teacher_training.train_teachers(["a", "b"], member, recipe, 0, chain.data, store, device=AUTO)
            made += student_training.train_students(small, wanted, *taught, device=AUTO)
            made += student_training.train_baselines(small, wanted, config.student, chain.data, store, device=AUTO)
            tried = trials.train_trials(job)
            labelled = logits.cache_logits(made[0], "test", chain.data, config.logits, store, device=AUTO)
        assert (sum(seen.waits.values()) > 0) == (device == "cuda")
        answers[device] = logits.read_logits(labelled)
        found[device] = [handle.metrics for handle in made] + [{"nll": t.nll, "accuracy": t.accuracy} for t in tried]
    assert len(found["cuda"]) == 8
    np.testing.assert_allclose(answers["cuda"], answers["cpu"], atol=1e-4)
    for mine, theirs in zip(found["cuda"], found["cpu"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
