"""Stage `students`: taught by the ensemble, beside the same network without a teacher."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from scipy.special import log_softmax, softmax
from tiny_chain import Chain
from torch import nn

from distillery.config.data import Data
from distillery.config.experiment import Capacity, Recipe, Student, View, Views
from distillery.config.search_space import Loss, Setting
from distillery.errors import InputError
from distillery.losses import LOSSES
from distillery.ops.metrics import quality, row_correct, row_nll
from distillery.stages.data import preparation
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.transfer_set import Transfer, show
from distillery.stages.distillation.distill import Targets, applied, distil, student_seed
from distillery.stages.distillation.soft_losses import check_loss
from distillery.stages.ensemble.weight_selection import teacher_logits
from distillery.stages.logits.logit_cache import cache_logits
from distillery.stages.students.student_files import StudentRecord, load_student
from distillery.stages.students.student_training import TrainingRequest, train_baselines, train_students
from distillery.store import Handle, StageNotFound, Store, checksum
from distillery.training.networks import build_network
from distillery.training.single import predict

SETTING = Setting(temperature=2.0, alpha=0.7)
NOISY = Views(count=3, transforms=(View(name="noise", size=0.5),))


def student(chain: Chain, store: Store, setting: Setting = SETTING, **more: Any) -> Handle:
    """The smaller capacity, distilled; `loss` changes the config's."""
    cfg = chain.config.student.model_copy(update={"loss": more.pop("loss", Loss())})
    upstream = (chain.data, chain.ensemble, chain.taught)
    (handle,) = train_students(
        cfg.capacities[0], [TrainingRequest(setting, chain.config.seed)], cfg, *upstream, store, **more
    )
    return handle


def baseline(chain: Chain, store: Store, setting: Setting = SETTING) -> Handle:
    """The smaller capacity, on labels alone."""
    cfg, wanted = chain.config.student, [TrainingRequest(setting, chain.config.seed)]
    (handle,) = train_baselines(cfg.capacities[0], wanted, cfg, chain.data, store)
    return handle


def weights(handle: Handle) -> str:
    """Digest of a student's weights."""
    return checksum(handle.file("model.safetensors"))


def test_without_soft_targets_the_student_is_the_baseline(chain: Chain, store: Store) -> None:
    """reference: alpha = 0 leaves the cross-entropy alone, so both have the same bits, smoothing and noise included."""
    for more in ({}, {"lr": 0.02, "weight_decay": 0.1, "noise": 0.2, "label_smoothing": 0.1}):
        setting = Setting(temperature=3.0, alpha=0.0, **more)
        assert weights(student(chain, store, setting)) == weights(baseline(chain, store, setting))
    assert weights(student(chain, store, setting.model_copy(update={"alpha": 0.1}))) != weights(
        baseline(chain, store, setting)
    )


def test_the_same_setting_gives_the_same_bits(chain: Chain, store: Store, tmp_path: Any) -> None:
    """determinism: in another store the same weights; another knob or loss is another student."""
    first, again = student(chain, store), student(chain, Store(tmp_path / "other"))
    assert weights(first) == weights(again) and first.fingerprint == again.fingerprint
    changes: list[dict[str, Any]] = [
        {"temperature": 4.0},
        {"alpha": 0.3},
        {"noise": 0.1},
        {"label_smoothing": 0.1},
        {"loss": Loss(name="mse")},
    ]
    others = [student(chain, store, SETTING.model_copy(update=change)) for change in changes]
    assert len({weights(h) for h in (first, *others)}) == len({h.path for h in (first, *others)}) == 6


def test_to_look_for_students_draws_no_random_numbers(
    chain: Chain, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """determinism: another thread may be drawing initial weights from the one generator meanwhile."""
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("the generator was set"))
    before = torch.get_rng_state()
    with pytest.raises(StageNotFound):
        student(chain, store.as_read_only())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_settings_loss_goes_before_the_configs(chain: Chain, store: Store) -> None:
    """reference: a loss in the setting teaches what the same loss in the config does."""
    mse = Loss(name="mse", clip=5.0)
    own = student(chain, store, SETTING.model_copy(update={"loss": mse}))
    assert weights(own) == weights(student(chain, store, loss=mse)) != weights(student(chain, store))


def test_the_baseline_knows_no_teacher(chain: Chain, store: Store) -> None:
    """property: temperature, alpha and loss of a setting do not reach the baseline, its recipe does."""
    first = baseline(chain, store)
    assert baseline(
        chain, store, Setting(temperature=8.0, alpha=0.1, unlabeled_fraction=0.3, loss=Loss(name="dkd"))
    ).cached
    for knob in ("lr", "weight_decay", "noise", "label_smoothing"):
        assert weights(baseline(chain, store, SETTING.model_copy(update={knob: 0.05}))) != weights(first), knob


def distilled(chain: Chain, setting: Setting, recipe: Recipe, loss: Loss | None = None) -> tuple[nn.Module, nn.Module]:
    """The smaller capacity before and after distillation on the ensemble's logits."""
    capacity, dataset = chain.config.student.capacities[0], Dataset(chain.data)
    config = Student(capacities=(capacity,), loss=loss or Loss())
    before, after = (build_network(capacity, dataset.spec, 0) for _ in range(2))
    targets = Targets.load(chain.data, Views(), chain.ensemble, chain.taught)
    distil([after], dataset, targets, [setting], [0], config, recipe)
    return before, after


def test_soft_targets_alone_need_no_labels(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """property: at alpha = 1 the labels have no say, bit by bit, and the student comes nearer to the ensemble."""
    setting, recipe = Setting(temperature=2.0, alpha=1.0), Recipe(epochs=20, batch_size=32, lr=0.01)
    before, after = distilled(chain, setting, recipe)
    inputs = chain.dataset.inputs[chain.dataset.splits["train"]]
    target = log_softmax(teacher_logits(chain.ensemble, chain.taught), axis=-1)

    def divergence(network: nn.Module) -> float:
        return float((np.exp(target) * (target - log_softmax(predict(network, inputs), axis=-1))).sum(-1).mean())

    assert divergence(after) < 0.5 * divergence(before)
    labels_of = Dataset.labels_of
    monkeypatch.setattr(Dataset, "labels_of", lambda self, rows: labels_of(self, rows)[::-1].copy())
    _, without = distilled(chain, setting, recipe)
    assert np.array_equal(predict(without, inputs), predict(after, inputs))
    _, half = distilled(chain, Setting(temperature=2.0, alpha=0.5), recipe)
    monkeypatch.undo()
    _, other = distilled(chain, Setting(temperature=2.0, alpha=0.5), recipe)
    assert not np.array_equal(predict(half, inputs), predict(other, inputs))


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_teaches(chain: Chain, name: str) -> None:
    """property: half a soft loss, half the labels: the student gets better on rows that it has not seen."""
    setting, recipe = Setting(temperature=2.0, alpha=0.5), Recipe(epochs=12, batch_size=32, lr=0.01)
    networks = distilled(chain, setting, recipe, Loss(name=name))
    dataset = chain.dataset
    rows, labels = dataset.inputs[dataset.splits["val_search"]], dataset.labels("val_search")
    before, after = (quality(predict(network, rows), labels) for network in networks)
    assert after["nll"] < 0.9 * before["nll"] and after["accuracy"] > before["accuracy"]


@pytest.fixture(scope="module")
def partly(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The tiny table, every fifth row without a label."""
    rows = replace(chain.rows, unlabeled=np.arange(len(chain.rows)) % 5 == 0)
    return Dataset(preparation.prepare(chain.config.data, rows, Store(tmp_path_factory.mktemp("partly"))))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("views", [Views(), NOISY], ids=["rows", "views"])
def test_the_objective_is_what_the_docs_say(chain: Chain, partly: Dataset, views: Views, smoothing: float) -> None:
    """reference: the first step's loss is alpha · T² · KL + (1 - alpha) · CE, by numpy, with the (smoothed) label where
    it holds and with the ensemble's probabilities where there is none: unlabelled rows and changed views."""
    rows = np.concatenate([partly.splits["train"], partly.splits["unlabeled"]])
    count, labelled = len(rows), len(partly.splits["train"])
    teacher_z = np.random.default_rng(0).normal(size=(views.count * count, 3)).astype(np.float32)
    setting = Setting(temperature=3, alpha=0.6, label_smoothing=smoothing, unlabeled_fraction=0.4)
    capacity = chain.config.student.capacities[0]
    network = build_network(capacity, partly.spec, 0)
    items = Transfer(partly, views, 0.4).order(1, torch.Generator().manual_seed(0)).numpy()
    places, numbers = items % count, items // count
    student_z = predict(network, show(partly, views, rows[places], numbers)).astype(np.float64)
    taught = teacher_z[items].astype(np.float64)
    exact = np.eye(3)[partly.labels_of(rows)[places]] * (1 - smoothing) + smoothing / 3
    holds = (places < labelled) & (numbers == 0)
    assert 0 < holds.sum() < len(items)
    goal = np.where(holds[:, None], exact, softmax(taught, axis=-1))
    p, q = (log_softmax(z / 3, axis=-1) for z in (taught, student_z))
    soft = 9 * (np.exp(p) * (p - q)).sum(-1).mean()
    hard = -(goal * log_softmax(student_z, axis=-1)).sum(-1).mean()
    one_step = Recipe(epochs=1, batch_size=labelled, lr=1e-9)
    config = Student(capacities=(capacity,), views=views)
    targets = Targets(torch.from_numpy(teacher_z), None)
    (course,) = distil([network], partly, targets, [setting], [0], config, one_step)
    assert course.history[0]["train_loss"] == pytest.approx(0.6 * soft + 0.4 * hard, rel=1e-5)


def test_views_take_the_place_of_fresh_augmentation(tmp_path: Any) -> None:
    """property: with several views the recipe's shift, flip and brightness are off; same seed, same bits."""
    config = Data(source="digits", image_size=8)
    rows = preparation.read_source(config)
    dataset = Dataset(preparation.prepare(config, replace(rows, labels=rows.labels[:200]), Store(tmp_path)))
    fresh = Recipe(epochs=2, augment={"shift": 0.25, "flip": True, "brightness": 0.4})
    capacity = Capacity(name="net", family="timm", arch="resnet10t")

    def trained(views: Views, recipe: Recipe) -> np.ndarray:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(dataset.inputs[0].size, 10))
        count = views.count * len(dataset.splits["train"])
        targets = Targets(torch.randn(count, 10, generator=torch.Generator().manual_seed(1)), None)
        student = Student(capacities=(capacity,), views=views)
        distil([network], dataset, targets, [SETTING], [0], student, recipe)
        return predict(network, dataset.inputs[np.arange(20)])

    several = Views(count=3, transforms=(View(name="shift", size=0.25),))
    assert np.array_equal(trained(several, fresh), trained(several, Recipe(epochs=2)))
    assert np.array_equal(trained(Views(), fresh), trained(Views(), fresh))
    assert not np.array_equal(trained(Views(), fresh), trained(Views(), Recipe(epochs=2)))


def test_logits_of_something_else_are_refused(chain: Chain, store: Store, tree: dict[str, Any]) -> None:
    """contract: logits of another split, of other views or of other data teach nobody; the message says which."""
    chained, wrong = (chain.ensemble, chain.taught), chain.logits["val_search"][: len(chain.taught)]
    with pytest.raises(InputError, match=r"logits 'mlp-0.-val_search': expected split transfer, got val_search"):
        Targets.load(chain.data, Views(), chain.ensemble, wrong)
    with pytest.raises(InputError, match=r"logits 'mlp-0.-transfer': expected views .*'count': 3.*, got .*'count': 1"):
        Targets.load(chain.data, NOISY, *chained)
    changed = Data(**{**tree["data"], "random_state": 4})
    other = preparation.prepare(changed, preparation.read_source(changed), store)
    with pytest.raises(InputError, match="expected data .*, got " + chain.dataset.digest("train")):
        student(SimpleNamespace(**{**vars(chain), "data": other}), store)
    seen = [cache_logits(m, "transfer", chain.data, chain.config.logits, store, views=NOISY) for m in chain.members]
    assert Targets.load(chain.data, NOISY, chain.ensemble, seen).logits.shape == (900, 3)


def test_losses_that_teach_nothing_are_refused() -> None:
    """contract: a loss that needs more classes is refused with the reason, and taken where there are enough."""
    needy = {name: LOSSES.traits(name)["min_classes"] for name in LOSSES.names() if "dead" in LOSSES.traits(name)}
    assert set(needy) == {"dist", "dkd", "lskd"}
    for name, least in needy.items():
        with pytest.raises(InputError) as caught:
            check_loss(name, least - 1, "search.losses.1")
        text = f"search.losses.1: loss {name!r} expects at least 3 classes, got 2: {LOSSES.traits(name)['dead']}"
        assert str(caught.value) == text
        check_loss(name, least, "student.loss")
    check_loss("kd", 2, "student.loss")


def test_figures_are_of_val_search(chain: Chain, store: Store) -> None:
    """reference: the handle's figures are the loaded network's, which is calibrated; those of the epochs are of the
    network as it trains; every epoch is reported."""
    seen: list[tuple[int, dict[str, float]]] = []
    handle = student(chain, store, on_epoch=lambda _, epoch, record: seen.append((epoch, record)))
    network, labels = load_student(handle, chain.dataset.spec), chain.dataset.labels("val_search")
    rows = chain.dataset.inputs[chain.dataset.splits["val_search"]]
    logits = predict(network, rows)
    expected = quality(logits, labels)
    record = StudentRecord.read(handle)
    expected["calibration_temperature"] = record.calibration_temperature
    for name, per_row in (("nll_se", row_nll(logits, labels)), ("accuracy_se", row_correct(logits, labels))):
        expected[name] = per_row.std() / len(labels) ** 0.5
    assert handle.metrics == expected
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4, 5]
    assert [figures for _, figures in seen] == handle.json("history.json")
    bare = quality(predict(network.network, rows), labels)
    last = seen[-1][1]
    assert (last["val_search/nll"], last["val_search/accuracy"]) == pytest.approx((bare["nll"], bare["accuracy"]))
    assert record.setting == SETTING.model_dump()
    assert record.recipe == applied(SETTING, chain.config.student.recipe).model_dump()


TOGETHER = (
    TrainingRequest(SETTING, 0),
    TrainingRequest(Setting(temperature=4.0, alpha=0.5, lr=0.02, weight_decay=0.3, noise=0.2, label_smoothing=0.1), 0),
    TrainingRequest(Setting(alpha=0.9, unlabeled_fraction=0.2, loss=Loss(name="mse", clip=3.0)), 0),
    TrainingRequest(Setting(alpha=0.9, unlabeled_fraction=0.7, loss=Loss(name="mse", clip=5.0), noise=0.1), 1),
    TrainingRequest(SETTING.model_copy(update={"epochs": 2}), 0),
    TrainingRequest(SETTING, 1),
)


@pytest.mark.parametrize("taught", [True, False])
def test_what_trains_together_is_what_it_is_alone(chain: Chain, store: Store, taught: bool) -> None:
    """reference: every network is the same stage as alone, its weights and history are the same to rounding; epochs
    are reported with its place, once where what was asked for twice is one network."""
    seen: list[list[int]] = [[] for _ in TOGETHER]
    config = chain.config.student.model_copy(update={"views": NOISY})
    several = [cache_logits(m, "transfer", chain.data, chain.config.logits, store, views=NOISY) for m in chain.members]

    def trained(wanted: tuple[TrainingRequest, ...], where: Store, **more: Any) -> list[Handle]:
        if taught:
            return train_students(
                config.capacities[0], wanted, config, chain.data, chain.ensemble, several, where, **more
            )
        return train_baselines(config.capacities[0], wanted, config, chain.data, where, **more)

    together = trained(TOGETHER, store, on_epoch=lambda place, epoch, _: seen[place].append(epoch))
    first = {handle.path: place for place, handle in reversed(list(enumerate(together)))}
    assert len(first) == (6 if taught else 5)  # without a teacher the third is the first one again
    for place, (own, handle) in enumerate(zip(TOGETHER, together, strict=True)):
        (alone,) = trained((own,), Store(store.root / str(place)))
        assert alone.fingerprint == handle.fingerprint and not alone.cached
        files = [load_file(h.file("model.safetensors")) for h in (alone, handle)]
        torch.testing.assert_close(files[0], files[1], atol=2e-4, rtol=0)
        assert alone.metrics == pytest.approx(handle.metrics, abs=1e-3)
        losses = [[epoch["train_loss"] for epoch in h.json("history.json")] for h in (alone, handle)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-4) and len(losses[0]) == (own.setting.epochs or 5)
        assert seen[place] == (list(range(1, len(losses[0]) + 1)) if first[handle.path] == place else [])


def test_one_that_diverges_leaves_the_others(chain: Chain, store: Store) -> None:
    """contract: the error names it; the others are kept and found, and none of them trains again."""
    cfg, hot = chain.config.student, SETTING.model_copy(update={"lr": 1e30})
    wanted = [TrainingRequest(SETTING, 0), TrainingRequest(hot, 0), TrainingRequest(SETTING, 1)]
    upstream = (cfg, chain.data, chain.ensemble, chain.taught)
    with pytest.raises(FloatingPointError, match=r"^student 'small': the loss became .* in epoch 1; a lower lr"):
        train_students(cfg.capacities[0], wanted, *upstream, store)
    kept = train_students(cfg.capacities[0], wanted[::2], *upstream, store)
    assert all(handle.cached for handle in kept)
    seen: list[int] = []
    longer = [wanted[2], TrainingRequest(SETTING, 2), wanted[0]]
    train_students(cfg.capacities[0], longer, *upstream, store, on_epoch=lambda place, *_: seen.append(place))
    assert seen == [1] * 5


def test_a_setting_overrides_the_recipe() -> None:
    """golden: only what the setting names is changed, each knob in its place; alpha may be 0 but not below."""
    recipe = Recipe(lr=0.1, weight_decay=0.2, label_smoothing=0.1, augment={"noise": 0.3, "shift": 0.1})
    assert applied(SETTING, recipe) == recipe
    assert applied(Setting(lr=0.5), recipe) == recipe.model_copy(update={"lr": 0.5})
    every = applied(Setting(lr=0.5, weight_decay=0.0, noise=0.0, label_smoothing=0.0), recipe)
    assert (every.lr, every.weight_decay, every.label_smoothing, every.augment.noise) == (0.5, 0.0, 0.0, 0.0)
    assert every.augment.shift == 0.1 and every.epochs == recipe.epochs
    assert Setting().alpha == 0
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Setting(alpha=-0.1)


def test_capacities_have_seeds_of_their_own(chain: Chain) -> None:
    """determinism: a seed depends on the experiment's seed and the capacity's name, and on nothing else."""
    small, large = chain.config.student.capacities
    wider = small.model_copy(update={"family": "timm"})
    assert student_seed(0, small) == student_seed(0, wider)
    assert len({student_seed(s, c) for s in (0, 1) for c in (small, large)}) == 4
