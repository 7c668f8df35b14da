"""Stage `students`: taught by the ensemble, beside the same network without a teacher."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax
from torch import nn

from distillery.config import Loss, Recipe
from distillery.dataset import Dataset
from distillery.ensemble import teacher_logits
from distillery.metrics import quality
from distillery.store import Handle, Store, checksum
from distillery.students import Setting, distil, load_student, student_seed, train_baseline, train_student
from distillery.teachers import build_network
from distillery.training.fit import predict

SETTING = Setting(temperature=2.0, alpha=0.7)


def student(chain: SimpleNamespace, store: Store, setting: Setting = SETTING, **more: Any) -> Handle:
    """The smaller capacity, distilled."""
    cfg, on_train = chain.config, chain.logits["train"]
    capacity = cfg.student.capacities[0]
    return train_student(capacity, setting, cfg.student, cfg.seed, chain.data, chain.ensemble, on_train, store, **more)


def baseline(chain: SimpleNamespace, store: Store, setting: Setting = SETTING) -> Handle:
    """The smaller capacity, on labels alone."""
    cfg = chain.config
    return train_baseline(cfg.student.capacities[0], setting, cfg.student, cfg.seed, chain.data, store)


def weights(handle: Handle) -> str:
    """Digest of a student's weights."""
    return checksum(handle.file("model.safetensors"))


def test_without_soft_targets_the_student_is_the_baseline(chain: SimpleNamespace, store: Store) -> None:
    """reference: alpha = 0 leaves the cross-entropy alone, so both have the same bits."""
    setting = Setting(temperature=3.0, alpha=0.0, lr=0.02, weight_decay=0.1)
    assert weights(student(chain, store, setting)) == weights(baseline(chain, store, setting))


def test_the_same_setting_gives_the_same_bits(chain: SimpleNamespace, store: Store, tmp_path: Any) -> None:
    """determinism: in another store the same weights; another temperature or alpha is another student."""
    first, again = student(chain, store), student(chain, Store(tmp_path / "other"))
    assert weights(first) == weights(again) and first.fingerprint == again.fingerprint
    others = [student(chain, store, SETTING.model_copy(update=c)) for c in ({"temperature": 4.0}, {"alpha": 0.3})]
    assert len({weights(h) for h in (first, *others)}) == len({h.path for h in (first, *others)}) == 3


def test_the_baseline_knows_no_temperature(chain: SimpleNamespace, store: Store) -> None:
    """property: only learning rate and weight decay of a setting reach the baseline."""
    first = baseline(chain, store)
    assert baseline(chain, store, Setting(temperature=8.0, alpha=0.1)).cached
    assert baseline(chain, store, Setting(temperature=2.0, alpha=0.7, lr=0.02)).path != first.path


def distilled(
    chain: SimpleNamespace, setting: Setting, recipe: Recipe, targets: np.ndarray | None = None
) -> tuple[nn.Module, nn.Module]:
    """The smaller capacity before and after distillation on the ensemble's logits."""
    capacity, dataset = chain.config.student.capacities[0], Dataset(chain.data)
    before, after = (build_network(capacity, dataset.spec, 0) for _ in range(2))
    logits = teacher_logits(chain.ensemble, chain.logits["train"]) if targets is None else targets
    distil(after, dataset, logits, setting, recipe, Loss(), seed=0)
    return before, after


def test_soft_targets_alone_need_no_labels(chain: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """property: at alpha = 1 the labels have no say, bit by bit, and the student comes nearer to the ensemble."""
    setting, recipe = Setting(temperature=2.0, alpha=1.0), Recipe(epochs=20, batch_size=32, lr=0.01)
    before, after = distilled(chain, setting, recipe)
    inputs = chain.dataset.inputs[chain.dataset.splits["train"]]
    target = log_softmax(teacher_logits(chain.ensemble, chain.logits["train"]), axis=-1)

    def divergence(network: nn.Module) -> float:
        return float((np.exp(target) * (target - log_softmax(predict(network, inputs), axis=-1))).sum(-1).mean())

    assert divergence(after) < 0.5 * divergence(before)
    labels = Dataset.labels
    monkeypatch.setattr(Dataset, "labels", lambda self, split: labels(self, split)[::-1].copy())
    _, without = distilled(chain, setting, recipe)
    assert np.array_equal(predict(without, inputs), predict(after, inputs))


def test_the_objective_is_what_the_docs_say(chain: SimpleNamespace) -> None:
    """reference: the first step's loss is alpha · T² · KL + (1 - alpha) · cross-entropy, by numpy."""
    dataset = chain.dataset
    rows, labels = dataset.splits["train"], dataset.labels("train")
    capacity = chain.config.student.capacities[0]
    network = build_network(capacity, dataset.spec, 0)
    student_z = predict(network, dataset.inputs[rows]).astype(np.float64)
    teacher_z = teacher_logits(chain.ensemble, chain.logits["train"])
    p, q = (log_softmax(z.astype(np.float64) / 3, axis=-1) for z in (teacher_z, student_z))
    soft = 9 * (np.exp(p) * (p - q)).sum(-1).mean()
    hard = -log_softmax(student_z, axis=-1)[np.arange(len(rows)), labels].mean()
    one_step = Recipe(epochs=1, batch_size=len(rows), lr=1e-9)
    history = distil(network, dataset, teacher_z, Setting(temperature=3, alpha=0.6), one_step, Loss(), seed=0)
    assert history[0]["train_loss"] == pytest.approx(0.6 * soft + 0.4 * hard, rel=1e-5)


def test_figures_are_of_val_search(chain: SimpleNamespace, store: Store) -> None:
    """reference: the handle's figures and the last epoch's from the loaded network; every epoch is reported."""
    seen: list[tuple[int, dict[str, float]]] = []
    handle = student(chain, store, on_epoch=lambda epoch, record: seen.append((epoch, record)))
    network = load_student(handle, chain.dataset.spec)
    logits = predict(network, chain.dataset.inputs[chain.dataset.splits["val_search"]])
    assert handle.metrics == quality(logits, chain.dataset.labels("val_search"))
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4, 5]
    assert [record for _, record in seen] == handle.json("history.json")
    assert seen[-1][1]["val_search/nll"] == pytest.approx(handle.metrics["nll"])
    assert handle.json("student.json")["setting"] == SETTING.model_dump()


def test_a_setting_overrides_the_recipe() -> None:
    """golden: only what the setting names is changed."""
    recipe = Recipe(lr=0.1, weight_decay=0.2)
    assert SETTING.applied(recipe) == recipe
    assert Setting(temperature=1, alpha=1, lr=0.5).applied(recipe) == recipe.model_copy(update={"lr": 0.5})


def test_capacities_have_seeds_of_their_own(chain: SimpleNamespace) -> None:
    """determinism: a seed depends on the experiment's seed and the capacity's name, and on nothing else."""
    small, large = chain.config.student.capacities
    wider = small.model_copy(update={"family": "timm"})
    assert student_seed(0, small) == student_seed(0, wider)
    assert len({student_seed(s, c) for s in (0, 1) for c in (small, large)}) == 4
