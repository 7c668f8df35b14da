"""Stage `teachers`: networks, estimators and given logits, kept and loaded again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from safetensors.torch import load_file
from scipy.special import softmax
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from tiny_chain import Chain

from distillery.config.experiment import Model, Recipe, Teacher
from distillery.errors import InputError
from distillery.models import InputSpec
from distillery.ops import metrics
from distillery.stages.teachers import teacher_training
from distillery.stages.teachers.member_files import load_member
from distillery.stages.teachers.model_check import check_model
from distillery.stages.teachers.teacher_training import train_teachers
from distillery.store import Handle, Store, checksum
from distillery.training import networks
from distillery.training.networks import build_network, derive_seed, load_network, save_network

IMAGE = InputSpec("image", (3, 16, 16), 4, (100.0, 90.0, 80.0), (50.0, 51.0, 52.0))
NARROW = {"channels": [2, 4, 4, 8], "stem_width": 4}
SHORT = Recipe(epochs=2, batch_size=64)

NETWORKS = {
    "mlp": ({"family": "mlp", "hidden": [5], "dropout": 0.3}, InputSpec("table", (6,), 3)),
    "timm": ({"family": "timm", "arch": "resnet10t", "kwargs": NARROW}, IMAGE),
}


def train(name: str, teacher: Teacher, recipe: Recipe, seed: int, data: Handle, store: Store, **more: Any) -> Handle:
    """One copy of a member, trained by itself."""
    (handle,) = train_teachers([name], teacher, recipe, seed, data, store, **more)
    return handle


@pytest.mark.parametrize("family", NETWORKS)
def test_a_network_comes_back_from_its_file(family: str, tmp_path: Path) -> None:
    """reference: the loaded network gives the same logits, bit by bit, running statistics included."""
    options, spec = NETWORKS[family]
    model = Model(name="x", **options)
    network = build_network(model, spec, 3)
    rows = torch.rand(8, *spec.shape, generator=torch.Generator().manual_seed(0)) * 255
    network.train()(rows)
    save_network(network, tmp_path / "model.safetensors")
    loaded = load_network(model.model_dump(), spec, tmp_path / "model.safetensors")
    assert torch.equal(loaded(rows), network.eval()(rows))
    assert [f.name for f in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_seed_decides_the_initial_weights() -> None:
    """determinism: the same seed builds the same network, whatever was drawn before."""
    options, spec = NETWORKS["timm"]
    model = Model(name="x", **options)
    states = [torch.cat([p.flatten() for p in build_network(model, spec, s).parameters()]) for s in (1, 1, 2)]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    seeds = {derive_seed(a, b) for a in range(20) for b in ("x", "y")}
    assert len(seeds) == 40 and all(0 <= s < 2**31 for s in seeds)


def test_training_again_gives_the_same_bits(chain: Chain, store: Store) -> None:
    """determinism: another store gets the same files; copies differ from each other."""
    cfg, names = chain.config, [m.name for m in chain.members]
    (member,) = cfg.teachers.members
    again = train_teachers(names, member, cfg.teachers.recipe_of(member), cfg.seed, chain.data, store)
    assert [(m.fingerprint, m.metrics) for m in again] == [(m.fingerprint, m.metrics) for m in chain.members]
    digests = [[checksum(m.file("model.safetensors")) for m in members] for members in (again, chain.members)]
    assert digests[0] == digests[1] and len(set(digests[0])) == 3


def test_a_copy_that_was_lost_comes_back_with_the_same_bits(chain: Chain, tmp_path: Path) -> None:
    """determinism: copies train together again, as they did, also where only one of them is missing."""
    cfg, store, names = chain.config, Store(tmp_path), [m.name for m in chain.members]
    (member,) = cfg.teachers.members
    asked = (names, member, cfg.teachers.recipe_of(member), cfg.seed, chain.data, store)
    lost = train_teachers(*asked)[1]
    shutil.rmtree(lost.path)
    told = []
    again = train_teachers(*asked, on_epoch=lambda place, epoch, _: told.append((place, epoch)))
    assert [m.cached for m in again] == [True, False, True]
    assert checksum(again[1].file("model.safetensors")) == checksum(chain.members[1].file("model.safetensors"))
    assert {place for place, _ in told} == {1}


def weights(handle: Handle) -> dict[str, torch.Tensor]:
    """What a trained member's network consists of."""
    return load_file(handle.file("model.safetensors"))


def test_copies_are_what_they_are_alone(chain: Chain, store: Store) -> None:
    """reference: a copy that trained with others is the same stage, and has the same weights to rounding, as alone."""
    (member,) = chain.config.teachers.members
    recipe = chain.config.teachers.recipe_of(member)
    for together in chain.members[1:]:
        alone = train(together.name, member, recipe, chain.config.seed, chain.data, store)
        assert alone.fingerprint == together.fingerprint and not alone.cached
        torch.testing.assert_close(weights(alone), weights(together), atol=2e-4, rtol=0)
        assert alone.metrics == pytest.approx(together.metrics, abs=1e-4)
        assert alone.json("member.json") == together.json("member.json")


def test_a_copy_that_diverges_leaves_the_others(chain: Chain, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: the error names it, the other copy is kept as it is alone, and only the first is trained again."""
    member, build, seen = Teacher(name="x", family="mlp", hidden=[4]), networks.build_network, []
    upstream = (member, SHORT, 0, chain.data, store)

    def broken(model: Model, spec: InputSpec, seed: int) -> torch.nn.Module:
        network = build(model, spec, seed)
        if seed == derive_seed(0, "a"):
            torch.nn.init.constant_(network[-1].bias, torch.nan)
        return network

    monkeypatch.setattr(teacher_training, "build_network", broken)
    with pytest.raises(FloatingPointError, match=r"^teacher 'a': the loss became nan in epoch 1; a lower lr may help"):
        train_teachers(["a", "b"], *upstream)
    monkeypatch.undo()
    first, second = train_teachers(["a", "b"], *upstream, on_epoch=lambda place, *_: seen.append(place))
    assert second.cached and not first.cached and seen == [0, 0]
    alone = train("b", *upstream[:-1], Store(store.root / "other"))
    torch.testing.assert_close(weights(second), weights(alone), atol=2e-4, rtol=0)


def test_a_teacher_is_named_by_what_decides_it(chain: Chain, store: Store) -> None:
    """property: another seed, name, recipe or width is another teacher; the number of copies is not."""
    base = {"name": "x", "family": "mlp", "hidden": [3]}

    def made(name: str = "x", recipe: Recipe = SHORT, seed: int = 0, **changes: Any) -> str:
        return train(name, Teacher(**{**base, **changes}), recipe, seed, chain.data, store).fingerprint

    first = made()
    assert made(copies=4) == first
    others = [made(seed=1), made("y"), made(recipe=SHORT.model_copy(update={"lr": 0.1})), made(hidden=[4])]
    assert len({first, *others}) == 5


def test_metrics_and_history_are_of_val_ensemble(chain: Chain, store: Store) -> None:
    """reference: the handle's figures from the loaded member's logits; one record per epoch, the last one the same."""
    seen: list[tuple[int, dict[str, float]]] = []
    teacher = Teacher(name="x", family="mlp", hidden=[4])
    handle = train("x", teacher, SHORT, 0, chain.data, store, on_epoch=lambda _, e, r: seen.append((e, r)))
    rows = chain.dataset.splits["val_ensemble"]
    logits = load_member(handle, chain.dataset).logits(chain.dataset.inputs[rows], rows)
    assert handle.metrics == metrics.quality(logits, chain.dataset.labels("val_ensemble"))
    history = handle.json("history.json")
    assert [e for e, _ in seen] == [1, 2] and [r for _, r in seen] == history
    assert history[-1]["val_ensemble/nll"] == pytest.approx(handle.metrics["nll"])


@pytest.mark.parametrize(
    ("estimator", "params"), [(HistGradientBoostingClassifier, {"max_iter": 5}), (LogisticRegression, {"C": 0.5})]
)
def test_an_estimator_is_fitted_as_by_hand(chain: Chain, store: Store, estimator: Any, params: dict[str, Any]) -> None:
    """reference: the same class fitted here gives the probabilities that the member's logits stand for."""
    path = f"{estimator.__module__}.{estimator.__name__}"
    handle = train("x", Teacher(name="x", family="sklearn", estimator=path, params=params), SHORT, 0, chain.data, store)
    data, rows = chain.dataset, chain.dataset.splits["test"]
    by_hand = estimator(random_state=derive_seed(0, "x"), **params).fit(
        data.inputs[data.splits["train"]], data.labels("train")
    )
    logits = load_member(handle, data).logits(data.inputs[rows], rows)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(softmax(logits, axis=1), by_hand.predict_proba(data.inputs[rows]), atol=1e-6)
    assert handle.json("history.json") == []
    other_recipe = train(
        "x", Teacher(name="x", family="sklearn", estimator=path, params=params), Recipe(), 0, chain.data, store
    )
    assert other_recipe.cached  # a recipe says nothing to an estimator


def test_an_estimator_of_another_version_is_fitted_anew(
    chain: Chain, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """property: what another version of its library pickled is not opened; networks are kept, whatever its version."""
    estimator = Teacher(name="x", family="sklearn", estimator="sklearn.linear_model.LogisticRegression")
    (network,) = chain.config.teachers.members
    before = [train("x", model, SHORT, 0, chain.data, store) for model in (estimator, network)]
    monkeypatch.setattr(sklearn, "__version__", "0.1")
    after = [train("x", model, SHORT, 0, chain.data, store) for model in (estimator, network)]
    assert [handle.cached for handle in after] == [False, True]
    assert before[0].path != after[0].path


def given_teacher(path: Path, chain: Chain, store: Store) -> Handle:
    """A member whose logits lie in a file."""
    return train("g", Teacher(name="g", family="given", path=str(path)), SHORT, 0, chain.data, store)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_given_logits_are_looked_up_by_row(chain: Chain, store: Store, tmp_path: Path, suffix: str) -> None:
    """reference: logits of any rows are the file's lines; another content of the same file is another member."""
    array = np.random.default_rng(0).normal(size=(900, 3)).astype(np.float32)
    path = tmp_path / f"x.{suffix}"
    handles = []
    for content in (array, array + 1):
        np.savez(path, logits=content) if suffix == "npz" else pd.DataFrame(content, columns=list("abc")).to_parquet(
            path
        )
        handles.append(given_teacher(path, chain, store))
    rows = np.array([5, 1, 899])
    for handle, content in zip(handles, (array, array + 1), strict=True):
        member = load_member(handle, chain.dataset)
        assert np.array_equal(member.logits(chain.dataset.inputs[rows], rows), content[rows])
    assert handles[0].fingerprint != handles[1].fingerprint


CHECKS: list[tuple[dict[str, Any], InputSpec, str]] = [
    ({"family": "given", "path": "logits.npz"}, InputSpec("table", (6,), 3), "for 900 rows of the data, got 10"),
    ({"family": "given", "path": "logits.npz"}, InputSpec("table", (6,), 4), r"expected \[rows, 4 classes\]"),
    ({"family": "timm", "arch": "resnet10t", "kwargs": {"channelz": 3}}, IMAGE, "timm cannot build 'resnet10t'"),
    ({"family": "timm", "arch": "vgg11", "kwargs": {"num_stages": 1}}, IMAGE, "timm cannot build 'vgg11'"),
    ({"family": "timm", "arch": "inception_v4"}, IMAGE, r"does not take inputs of shape \[3, 16, 16\]"),
]


@pytest.mark.parametrize(("options", "spec", "message"), CHECKS, ids=[m for *_, m in CHECKS])
def test_models_are_tried_before_anything_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], spec: InputSpec, message: str
) -> None:
    """contract: a model that cannot be built or fed, or has other rows or classes, is named in one line."""
    monkeypatch.chdir(tmp_path)
    np.savez("logits.npz", logits=np.zeros((10, 3), np.float32))
    with pytest.raises(InputError, match=message) as caught:
        check_model(Model(name="x", **options), spec, "teacher 'x'", 900)
    assert str(caught.value).startswith("teacher 'x': ") and "\n" not in str(caught.value)


def test_a_model_that_fits_passes() -> None:
    """contract: the check says nothing about a model that can be used."""
    for options, spec in NETWORKS.values():
        check_model(Model(name="x", **options), spec, "teacher 'x'", 900)
