"""The config: what is accepted, and what a mistake is told."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from distillery.config.config_file import load, parse
from distillery.config.experiment import Capacity, Experiment
from distillery.errors import InputError
from distillery.store import fingerprint

ROOT = Path(__file__).parents[2]
FOREST = {"name": "x", "family": "sklearn", "estimator": "sklearn.ensemble.RandomForestClassifier"}
NOISE = {"name": "noise"}
TWICE = [{"name": "twin", "family": "mlp", "hidden": [2]}] * 2


def changed(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of `tree` with the value at a dotted path replaced."""
    result: dict[str, Any] = deepcopy(tree)
    node: Any = result
    *parents, last = path.split(".")
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    node[int(last) if isinstance(node, list) else last] = value
    return result


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda f: f.stem)
def test_shipped_configs_are_valid(file: Path) -> None:
    """contract: every YAML in configs/ is accepted, is named like its file, and survives a round trip."""
    experiment = load(file)
    assert experiment.name == file.stem
    assert parse(experiment.model_dump(mode="json")) == experiment


MISTAKES: list[tuple[str, Any, list[str]]] = [
    # misspelt or unknown words: the field, what is allowed, what was given, the nearest
    ("serch", {}, ["expected one of", "got 'serch'", "did you mean 'search'"]),
    ("search.trails", 3, ["search", "expected one of", "got 'trails'", "did you mean 'trials'"]),
    ("data.split.tset", 0.1, ["data.split", "expected one of", "got 'tset'", "did you mean 'test'"]),
    ("search.select", "smal", ["search.select", "expected one of", "got 'smal'", "did you mean 'small'"]),
    ("data.rwos", 3, ["data", "expected one of", "got 'rwos'", "did you mean 'rows'"]),
    ("data.source", "digitz", ["data", "expected one of", "got 'digitz'", "did you mean 'digits'"]),
    ("teachers.members.0.family", "mpl", ["teachers.members.0", "expected one of", "got 'mpl'", "did you mean 'mlp'"]),
    ("teachers.members.0.hiden", [3], ["teachers.members.0", "expected one of", "got 'hiden'", "'hidden'"]),
    ("teachers.members.0.recipe", {"epoch": 3}, ["teachers", "expected one of", "got 'epoch'", "'epochs'"]),
    ("student.loss", {"name": "kdd"}, ["student.loss", "expected one of", "got 'kdd'", "did you mean 'kd'"]),
    ("student.loss", {"name": "kd", "beta": 1}, ["student.loss", "expected one of", "got 'beta'"]),
    (
        "ensemble.weightings",
        [{"name": "convx"}],
        ["ensemble.weightings.0", "expected one of", "got 'convx'", "'convex'"],
    ),
    ("ensemble.pools", ["prob"], ["ensemble.pools.0", "'probs' or 'logits'", "got 'prob'"]),
    # numbers out of range, and other types
    ("search.alpha", 1.2, ["search", "alpha", "expected a value in [0, 1]", "got 1.2"]),
    ("search.alpha", -0.1, ["search", "alpha", "expected a value in [0, 1]", "got -0.1"]),
    ("search.alpha", {"low": 0.1, "high": 2}, ["search", "alpha", "expected a value in [0, 1]", "got 2.0"]),
    ("search.temperature", 0, ["search", "temperature", "expected a value > 0", "got 0"]),
    ("search.temperature", -2, ["search", "temperature", "expected a value > 0", "got -2"]),
    ("search.temperature", {"low": 4, "high": 2}, ["search.temperature", "expected low < high", "got 4.0 and 2.0"]),
    ("search.lr", 0, ["search", "lr", "expected a value > 0", "got 0"]),
    ("search.objectives", ["latency_ms", "nll"], ["search", "objectives", "expected nll or error first", "got ('lat"]),
    ("search.trials", 0, ["search.trials", "greater than or equal to 1", "got 0"]),
    ("student.recipe.lr", -1, ["student.recipe.lr", "greater than 0", "got -1"]),
    ("data.rows", "many", ["data: rows", "valid integer", "got 'many'"]),
    ("data.split.test", 0, ["data.split.test", "greater than 0", "got 0"]),
    ("seed", "x", ["seed", "valid integer", "got 'x'"]),
    # changes of training rows that the data do not have
    ("student.recipe", {"augment": {"shift": 0.1}}, ["student.recipe.augment.shift", "table data"]),
    ("teachers.members.0.recipe", {"augment": {"flip": True}}, ["teachers.recipe.augment.flip", "table data"]),
    # views: how many, of what, for which data
    ("student.views", {"count": 3}, ["student.views", "expected transforms with a count above 1", "got 3 and 0"]),
    ("student.views", {"transforms": [NOISE]}, ["student.views", "with a count above 1", "got 1 and 1"]),
    ("student.views", {"count": 0}, ["student.views.count", "greater than or equal to 1", "got 0"]),
    (
        "student.views",
        {"count": 2, "transforms": [NOISE, {"name": "flip"}]},
        ["student.views.transforms.1", "for table data expected one of", "got 'flip'"],
    ),
    (
        "student.views",
        {"count": 2, "transforms": [{"name": "niose"}]},
        ["student.views.transforms.0", "expected one of", "got 'niose'", "did you mean 'noise'"],
    ),
    (
        "student.views",
        {"count": 2, "transforms": [{"name": "noise", "size": -1}]},
        ["student.views.transforms.0", "size", "greater than or equal to 0", "got -1"],
    ),
    # gates
    ("gates", [{"figure": "acuracy", "at_least": 1}], ["gates.0", "expected one of", "got 'acuracy'", "'accuracy'"]),
    ("gates", [{"figure": "nll", "at_least": 1, "at_most": 2}], ["gates.0", "either at_least or at_most", "got both"]),
    ("gates", [{"figure": "nll"}], ["gates.0", "either at_least or at_most for 'nll'", "or none"]),
    (
        "gates",
        [{"figure": "nll", "bound": "middle", "at_most": 1}],
        ["gates.0.bound", "'value', 'low' or 'high'", "got 'middle'"],
    ),
    # names
    ("name", "a b", ["name", "match pattern", "got 'a b'"]),
    ("student.capacities", TWICE, ["student", "expected distinct names", "got 'twin' 2 times"]),
    ("teachers.members", TWICE, ["teachers", "expected distinct names", "got 'twin' 2 times"]),
    ("teachers.members", [], ["teachers.members", "at least 1 item"]),
    # models that cannot be what they are asked to be
    ("student.capacities.0", FOREST, ["student.capacities.0", "must be a network", "expected one of", "got 'sklearn'"]),
    ("student.capacities.0", {**FOREST, "family": "timm"}, ["student.capacities.0", "got 'estimator'"]),
    (
        "teachers.members.0",
        {"name": "x", "family": "timm", "arch": "resnet10t"},
        ["teachers.members.0.family", "table data expected one of", "got 'timm'"],
    ),
    (
        "teachers.members.0",
        {"name": "x", "family": "timm", "arch": "resnet19x"},
        ["teachers.members.0: arch", "got 'resnet19x'", "did you mean"],
    ),
    (
        "teachers.members.0",
        {**FOREST, "estimator": "sklearn.ensemble.RandomForrest"},
        [
            "teachers.members.0: estimator",
            "expected the import path of a class",
            "got 'sklearn.ensemble.RandomForrest'",
        ],
    ),
    (
        "teachers.members.0",
        {"name": "x", "family": "given", "path": "/no/where.npz"},
        ["teachers.members.0: path", "expected an .npz, .parquet or .csv", "got '/no/where.npz'"],
    ),
    ("teachers.members.0", {"name": "x", "family": "mlp"}, ["teachers.members.0", "needs the option 'hidden'"]),
]


@pytest.mark.parametrize(("path", "value", "needles"), MISTAKES, ids=lambda v: str(v)[:40])
def test_a_mistake_is_one_line_that_helps(tree: dict[str, Any], path: str, value: Any, needles: list[str]) -> None:
    """contract: one line that names the field, what was expected and what was got."""
    with pytest.raises(InputError) as caught:
        parse(changed(tree, path, value), "my.yaml")
    message = str(caught.value)
    assert message.startswith("my.yaml: ") and "\n" not in message
    assert [n for n in needles if n not in message] == [], message


def test_noise_is_for_tables(tree: dict[str, Any]) -> None:
    """contract: table rows may be noisy, images not."""
    noisy = changed(tree, "student.recipe", {"augment": {"noise": 0.1}})
    assert parse(noisy).student.recipe.augment.noise == 0.1
    with pytest.raises(InputError, match=r"student\.recipe\.augment\.noise: not for image data"):
        parse(changed(noisy, "data", {"source": "digits"}))


def test_given_logits_cannot_label_new_views(tree: dict[str, Any], tmp_path: Path) -> None:
    """contract: a teacher that is a file of logits is refused beside views, and taken without them."""
    file = tmp_path / "logits.npz"
    np.savez(file, logits=np.zeros((900, 3)))
    tree["teachers"]["members"].append({"name": "theirs", "family": "given", "path": str(file)})
    assert parse(tree).teachers.members[1].name == "theirs"
    with pytest.raises(InputError, match=r"student\.views: teacher 'theirs' has given logits.*cannot label new views"):
        parse(changed(tree, "student.views", {"count": 2, "transforms": [NOISE]}))


def test_views_fit_the_data(tree: dict[str, Any]) -> None:
    """contract: views of tables on tables, of images on images; not the other way round."""
    noisy = changed(tree, "student.views", {"count": 4, "transforms": [NOISE, {"name": "mixup", "alpha": 1}]})
    assert [v.options for v in parse(noisy).student.views.transforms] == [{"size": 0.3}, {"alpha": 1.0}]
    with pytest.raises(InputError, match=r"student\.views\.transforms\.0: for image data expected one of .*'noise'"):
        parse(changed(noisy, "data", {"source": "digits"}))


def test_a_missing_field_is_named(tree: dict[str, Any]) -> None:
    """contract: a required field that is not there is named with its path."""
    del tree["student"]["capacities"]
    with pytest.raises(InputError, match=r"^config: student\.capacities: expected a value, got none$"):
        parse(tree)


BAD_FILES = {"a: [\n": "not valid YAML", "- a\n": "expected keys and values, got list", "": "got NoneType"}


@pytest.mark.parametrize("text", BAD_FILES)
def test_an_unreadable_file_is_named(tmp_path: Path, text: str) -> None:
    """contract: what is no tree of keys and values is refused in one line that names the file."""
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ") and BAD_FILES[text] in message and "\n" not in message
    with pytest.raises(InputError, match=r"gone\.yaml"):
        load(tmp_path / "gone.yaml")


def test_overrides_reach_by_path_and_by_name(tree: dict[str, Any], tmp_path: Path) -> None:
    """golden: a dotted path walks keys, numbers and the names of list items; values are YAML; sections are made."""
    del tree["search"]
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(tree))
    changes = ["seed=7", "search.trials=9", "student.capacities.large.hidden=[5, 6]", "teachers.members.0.copies=2"]
    found = load(file, [*changes, "search.temperature={low: 2, high: 3}", "data.split.order=ordered"])
    assert (found.seed, found.search.trials, found.teachers.members[0].copies) == (7, 9, 2)
    assert [c.options["hidden"] for c in found.student.capacities] == [[4], [5, 6]]
    assert found.search.temperature.model_dump() == {"low": 2, "high": 3, "log": False}
    assert found.data.split.order == "ordered"


BAD_OVERRIDES = {
    "seed": "expected key=value, got 'seed'",
    "=3": "expected key=value",
    "student.capacities.lrage.hidden=[5]": "expected an index below 2 or a name, got 'lrage'",
    "student.capacities.2.hidden=[5]": "expected an index below 2",
    "name.x=3": "'name' holds a value",
    "serch.trials=3": "did you mean 'search'",
}


@pytest.mark.parametrize("override", BAD_OVERRIDES)
def test_a_wrong_override_is_told(tree: dict[str, Any], tmp_path: Path, override: str) -> None:
    """contract: an override that leads nowhere is refused in one line."""
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(InputError) as caught:
        load(file, [override])
    assert BAD_OVERRIDES[override] in str(caught.value) and "\n" not in str(caught.value)


def test_defaults_are_filled_in_and_hashed(tree: dict[str, Any]) -> None:
    """property: writing a default out changes nothing; the config is frozen; another option is another fingerprint."""
    plain = parse(tree)
    written = parse(changed(changed(tree, "data.class_sep", 1.0), "student.capacities.0.activation", "relu"))
    assert written == plain and fingerprint(written) == fingerprint(plain)
    assert plain.data.options["flip_y"] == 0.01
    other = parse(changed(tree, "student.capacities.0.activation", "gelu"))
    assert fingerprint(other.student) != fingerprint(plain.student)
    with pytest.raises(ValidationError, match="frozen"):
        plain.seed = 3  # type: ignore[misc]


def test_every_teacher_has_a_name_and_a_recipe(tree: dict[str, Any]) -> None:
    """golden: copies are numbered, a single one is not; a member's recipe overrides the teachers' one key by key."""
    tree["teachers"]["members"].append({"name": "one", "family": "mlp", "hidden": [2], "recipe": {"epochs": 3}})
    teachers = parse(tree).teachers
    assert [(n, m.name, c) for n, m, c in teachers.each()] == [
        ("mlp-00", "mlp", 0),
        ("mlp-01", "mlp", 1),
        ("mlp-02", "mlp", 2),
        ("one", "one", 0),
    ]
    assert teachers.recipe_of(teachers.members[0]) == teachers.recipe
    assert teachers.recipe_of(teachers.members[1]) == teachers.recipe.model_copy(update={"epochs": 3})


def test_a_model_of_the_config_survives_a_dump(tree: dict[str, Any]) -> None:
    """property: options of a choice stand beside its fields, in and out of JSON."""
    experiment = parse(tree)
    assert Experiment(**experiment.model_dump()) == experiment
    capacity = experiment.student.capacities[0]
    assert Capacity(**capacity.model_dump(mode="json")) == capacity
    assert capacity.options.items() >= {"hidden": [4], "dropout": 0.0, "activation": "relu"}.items()
    assert capacity.model_dump() == {"name": "small", "family": "mlp", **capacity.options}
