"""Model families: what each of them promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file
from scipy.special import log_softmax
from torch import nn

from distillery.errors import InputError
from distillery.models import MODELS, GivenLogits, InputSpec
from distillery.models.given import in_class_order

IMAGE = InputSpec("image", (1, 16, 16), 4, (100.0,), (50.0,))
TABLE = InputSpec("table", (6,), 3)
NARROW = {"channels": [2, 4, 4, 8], "stem_width": 4}


def given_file(folder: Path) -> str:
    """Logits of 10 rows and 3 classes in a file."""
    np.savez(folder / "given.npz", logits=np.arange(30, dtype=np.float32).reshape(10, 3))
    return str(folder / "given.npz")


EXAMPLES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "given": lambda folder: {"path": given_file(folder)},
    "mlp": lambda _: {"hidden": [5], "dropout": 0.1, "activation": "silu"},
    "sklearn": lambda _: {"estimator": "sklearn.naive_bayes.GaussianNB"},
    "timm": lambda _: {"arch": "resnet10t", "kwargs": NARROW},
}


INSIDE = [name for name in MODELS.names() if not MODELS.traits(name).get("outside")]


@pytest.mark.parametrize("family", INSIDE)
def test_every_family_keeps_the_promise(family: str, tmp_path: Path) -> None:
    """contract: a network gives finite logits [B, C] and gradients, an estimator probabilities, given logits rows."""
    traits = MODELS.traits(family)
    spec = TABLE if "table" in traits["kinds"] else IMAGE
    built = MODELS[family](spec, **MODELS.check(family, EXAMPLES[family](tmp_path)))
    assert isinstance(built, nn.Module) == traits["network"]
    if traits["network"]:
        logits = built(torch.rand(2, *spec.shape))
        logits.square().sum().backward()
        assert logits.shape == (2, spec.classes) and torch.isfinite(logits).all()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in built.parameters())
    elif isinstance(built, GivenLogits):
        assert built.logits.dtype == np.float32 and built.logits.shape[1] == spec.classes
    else:
        inputs = np.random.default_rng(0).normal(size=(30, *spec.shape))
        probs = built.fit(inputs, np.arange(30) % spec.classes).predict_proba(inputs)
        np.testing.assert_allclose(probs.sum(1), np.ones(30))


def test_mlp_is_its_layers() -> None:
    """reference: a loop over the layers' own weights; images are flattened and normalised first."""
    network = MODELS["mlp"](TABLE, hidden=[5, 4])
    rows = value = torch.rand(3, 6)
    weights = [(m.weight, m.bias) for m in network if isinstance(m, nn.Linear)]
    for weight, bias in weights[:-1]:
        value = (value @ weight.T + bias).relu()
    assert torch.allclose(network(rows), value @ weights[-1][0].T + weights[-1][1])
    assert MODELS["mlp"](IMAGE, hidden=[3])(torch.rand(2, 1, 16, 16)).shape == (2, 4)


def test_timm_normalises_inside() -> None:
    """reference: pixels minus the training mean, by the training deviation, through timm's own backbone."""
    network = MODELS["timm"](IMAGE, arch="resnet10t", kwargs=NARROW).eval()
    pixels = torch.rand(2, 1, 16, 16) * 255
    with torch.inference_mode():
        assert torch.allclose(network(pixels), network.backbone((pixels - 100.0) / 50.0), atol=1e-5)


def test_timm_starts_from_a_checkpoint(tmp_path: Path) -> None:
    """property: matching weights are taken over; a head for other classes is left as it was made."""
    build = MODELS["timm"]
    donor = build(IMAGE, arch="resnet10t", kwargs=NARROW).backbone
    save_file(donor.state_dict(), tmp_path / "donor.safetensors")
    wide = InputSpec("image", (1, 16, 16), 7, (100.0,), (50.0,))
    for spec, head_is_new in ((IMAGE, False), (wide, True)):
        found = build(spec, arch="resnet10t", kwargs=NARROW, checkpoint=str(tmp_path / "donor.safetensors")).backbone
        for key, value in found.state_dict().items():
            if key.startswith("fc.") and head_is_new:
                assert value.shape != donor.state_dict()[key].shape
            else:
                assert torch.equal(value, donor.state_dict()[key])


def test_timm_takes_models_of_a_fixed_size() -> None:
    """property: a transformer is built for the size of the images at hand."""
    kwargs = {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
    network = MODELS["timm"](IMAGE, arch="vit_tiny_patch16_224", kwargs=kwargs)
    assert network(torch.rand(2, 1, 16, 16)).shape == (2, 4)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    """contract: arguments and checkpoints that do not fit, and a file that is gone, are InputErrors."""
    build = MODELS["timm"]
    save_file(build(IMAGE, arch="resnet10t", kwargs=NARROW).backbone.state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"expected '.*' of shape \(\d+.*\), got \(\d+"):
        build(IMAGE, arch="resnet10t", checkpoint=str(tmp_path / "x.safetensors"))
    with pytest.raises(InputError, match=r"cannot build 'resnet10t' with .*channelz"):
        build(IMAGE, arch="resnet10t", kwargs={"channelz": [1]})
    with pytest.raises(InputError, match=r"expected a file, got 'gone\.pt'"):
        MODELS.check("timm", {"arch": "resnet10t", "checkpoint": "gone.pt"})


ESTIMATORS = {
    "LogisticRegression(": ("sklearn.linear_model.LogisticRegression", {"foo": 1}, "unexpected keyword argument 'foo'"),
    "no probabilities": ("sklearn.svm.LinearSVC", {}, "expected predict_proba"),
    "regressor": ("sklearn.linear_model.LinearRegression", {}, "expected predict_proba"),
}


@pytest.mark.parametrize("case", ESTIMATORS)
def test_estimators_that_cannot_be_used_are_told(case: str) -> None:
    """contract: wrong arguments and classes without probabilities are InputErrors that name the class."""
    name, params, message = ESTIMATORS[case]
    with pytest.raises(InputError, match=message) as caught:
        MODELS["sklearn"](TABLE, estimator=name, params=params)
    assert name in str(caught.value)


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
@pytest.mark.parametrize("values", ["logits", "probs"])
def test_given_logits_are_the_files(tmp_path: Path, suffix: str, values: str) -> None:
    """reference: logits as they stand in the file; probabilities become logits with the same softmax."""
    array = np.random.default_rng(0).dirichlet([1, 1, 1], 12).astype(np.float32)
    path = tmp_path / f"x.{suffix}"
    np.savez(path, array) if suffix == "npz" else pd.DataFrame(array, columns=list("abc")).to_parquet(path)
    found = MODELS["given"](TABLE, path=str(path), values=values).logits
    if values == "logits":
        assert np.array_equal(found, array)
    else:
        np.testing.assert_allclose(np.exp(log_softmax(found, axis=1)), array, atol=1e-6)


NUMBERS = sorted(str(number) for number in range(1, 13))  # "1", "10", "11", "12", "2", ...
TWELVE = InputSpec("table", (6,), 12)


def test_columns_are_put_in_the_order_of_the_classes(tmp_path: Path) -> None:
    """reference: columns in the order of the numbers, named in every way that a file can name them.

    A whole number is called the same in an array of text, of integers and of floats.
    """
    array = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    names = [str(number) for number in range(1, 13)]
    expected = array[:, [int(name) - 1 for name in NUMBERS]]
    frame = pd.DataFrame(array, columns=names)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.add_prefix("probability:").to_csv(tmp_path / "prefixed.csv", index=False)
    for kind in (str, int, float):
        np.savez(tmp_path / f"{kind.__name__}.npz", classes=np.array(names).astype(kind), logits=array)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 6
    for file in files:
        found = in_class_order(MODELS["given"](TWELVE, path=str(file)), NUMBERS)
        np.testing.assert_allclose(found.logits, expected, rtol=1e-6)
        assert found.columns == tuple(NUMBERS)


@pytest.mark.parametrize("kind", ["npz", "numbered", "parquet"])
def test_columns_without_names_are_refused_where_their_order_is_not_certain(tmp_path: Path, kind: str) -> None:
    """contract: numbers sorted as text; both orders and the remedy are told. Nine numbers, or words, are taken."""
    array = np.zeros((5, 12), np.float32)
    path = str(tmp_path / f"a.{'npz' if kind == 'npz' else 'parquet'}")
    if kind == "npz":
        np.savez(path, logits=array)
    else:
        columns = range(12) if kind == "numbered" else list("abcdefghijkl")
        pd.DataFrame(array, columns=columns).to_parquet(path)
    found = MODELS["given"](TWELVE, path=path)
    with pytest.raises(InputError) as caught:
        in_class_order(found, NUMBERS)
    told = str(caught.value)
    assert "expected names for 12 columns" in told and "1, 10, 11, 12, 2, 3, ..., not 1, 2, 3, 4, 5, 6, ..." in told
    assert "put their names into an .npz as `classes`" in told and "\n" not in told
    for certain in ([f"c{name}" for name in NUMBERS], [str(number) for number in range(10, 22)]):
        assert in_class_order(found, certain) is found


def test_a_class_without_a_column_is_told(tmp_path: Path) -> None:
    """contract: columns some of which are named by classes; as many names as columns are expected in an .npz."""
    array = np.zeros((5, 3), np.float32)
    pd.DataFrame(array, columns=["no", "yes", "other"]).to_csv(tmp_path / "a.csv", index=False)
    found = MODELS["given"](TABLE, path=str(tmp_path / "a.csv"))
    with pytest.raises(InputError, match="expected a column for every class, got none for maybe"):
        in_class_order(found, ["maybe", "no", "yes"])
    np.savez(tmp_path / "a.npz", logits=array, classes=np.array(["no", "yes"]))
    with pytest.raises(InputError, match="expected 3 names in classes, got 2"):
        MODELS["given"](TABLE, path=str(tmp_path / "a.npz"))


BAD_LOGITS = {
    "expected [rows, 3 classes], got shape (5, 4)": np.zeros((5, 4)),
    "expected [rows, 3 classes], got shape (15,)": np.zeros(15),
    "expected finite numbers, got [0.0, inf, 0.0] in row 1": np.array([[0, 0, 0], [0, np.inf, 0]]),
}


@pytest.mark.parametrize("message", BAD_LOGITS)
def test_given_logits_that_do_not_fit_are_told(tmp_path: Path, message: str) -> None:
    """contract: another number of classes, and numbers that are not finite, are InputErrors."""
    np.savez(tmp_path / "x.npz", logits=BAD_LOGITS[message])
    with pytest.raises(InputError) as caught:
        MODELS["given"](TABLE, path=str(tmp_path / "x.npz"))
    assert message in str(caught.value)


def test_a_spec_survives_json() -> None:
    """property: to JSON text and back is the same spec, hashable as before, nested numbers included."""
    binned = InputSpec("table", (2,), 3, numbers=(((-1.5, 3), (0.25, 4)), ()))
    for spec in (IMAGE, TABLE, binned):
        found = TypeAdapter(InputSpec).validate_json(json.dumps(spec.to_json()))
        assert found == spec and hash(found) == hash(spec)
