"""The `search` section of a config: what may be searched, and what a mistake is told."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from distillery.config.config_file import parse
from distillery.config.search_space import Halving, Knobs, Loss, LossSpace, Range, Search, Setting
from distillery.errors import InputError
from distillery.losses import LOSSES

KD_OR_MSE = [{"name": "kd"}, {"name": "mse"}]
IMAGES = {"source": "digits"}
FEW = {"low": 0.1, "high": 0.5}

MISTAKES: list[tuple[dict[str, Any], str]] = [
    # names of earlier versions
    ({"known_good": []}, "search: expected 'initial_points', got 'known_good', its name in an earlier version"),
    ({"cohort": 2}, "search: expected 'trials_per_round', got 'cohort'"),
    ({"choose": "best"}, "search: expected 'select', got 'choose'"),
    ({"share": 0.5}, "search: expected 'unlabeled_fraction', got 'share'"),
    # settings to try first
    (
        {"initial_points": [{}, {"temprature": 2}]},
        "search: initial_points.1: expected one of .*'temprature'.*'temperature'",
    ),
    (
        {"initial_points": [{"temperature": 9}]},
        r"initial_points.0.temperature: expected a value in \[1.0, 8.0\].*got 9",
    ),
    ({"initial_points": [{"temperature": "hot"}]}, "initial_points.0.temperature: expected a number, got 'hot'"),
    ({"initial_points": [{"loss": "kd"}]}, "initial_points.0.loss: expected search.losses to choose from, got none"),
    (
        {"initial_points": [{"loss": "ms"}], "losses": KD_OR_MSE},
        "initial_points.0.loss: expected one of kd, mse, got 'ms'",
    ),
    (
        {"baseline": {"initial_points": [{"alpha": 0.1}]}},
        "search.baseline: initial_points.0: .*got 'alpha'",
    ),
    (
        {"baseline": {"initial_points": [{"loss": "kd"}]}},
        "search.baseline: initial_points.0: .*got 'loss'",
    ),
    # ranges
    ({"alpha": 0}, "search: alpha: expected a value above 0, got 0, which would leave the teachers out"),
    ({"alpha": {"low": 0.5, "high": 1.5}}, r"search: alpha: expected a value in \[0, 1\], got 1.5"),
    ({"label_smoothing": 1}, r"search: label_smoothing: expected a value in \[0, 1\), got 1.0"),
    ({"weight_decay": -0.1}, "search: weight_decay: expected a value >= 0, got -0.1"),
    ({"temperature": "hot"}, r"search.temperature: expected a number or a range \{low: ..., high: ...\}, got 'hot'"),
    ({"temperature": {"low": 1, "hihg": 2}}, "search.temperature: unknown key: expected one of .*'hihg'.*'high'"),
    ({"lr": {"low": 0, "high": 1, "log": True}}, "search.lr: expected low > 0 on a log scale, got 0.0"),
    ({"lr": {"low": 1, "high": 1}}, "search.lr: expected low < high, got 1.0 and 1.0"),
    ({"baseline": {"lr": -1}}, "search.baseline: lr: expected a value > 0, got -1.0"),
    ({"baseline": {"alpha": FEW}}, "search.baseline: unknown key: expected one of .*got 'alpha'"),
    # losses and their options
    ({"losses": [{"name": "kd"}, {"name": "kd"}]}, "search: losses: expected distinct losses, got kd, kd"),
    ({"losses": [{"name": "kdd"}]}, "search.losses.0: unknown loss: expected one of .*got 'kdd'.*'kd'"),
    ({"losses": [{"name": "dkd", "options": {"bta": 1}}]}, "search.losses.0: unknown option .*'bta'.*'beta'"),
    ({"losses": [{"name": "dkd", "options": {"beta": "x"}}]}, "search.losses.0.options.beta: expected a number.*'x'"),
    ({"losses": [{"name": "dkd", "options": {"beta": {"low": -1, "high": 2}}}]}, "losses.0: beta: .*0, got -1.0"),
    # what the data do not have
    (
        {"unlabeled_fraction": FEW},
        "search.unlabeled_fraction: expected student.views with a count above 1, or unlabelled rows; got neither",
    ),
    ({"noise": 0.1, "data": IMAGES}, "search.noise: not for image data"),
    ({"baseline": {"noise": 0.1}, "data": IMAGES}, "search.baseline.noise: not for image data"),
    # the study
    ({"temperature": 2, "alpha": 0.5}, "search: expected a range in at least one knob for 4 trials, got none"),
    ({"trials": 1}, "search.trials: expected one for each of 2 capacities, got 1"),
    ({"halving": {"eta": 1}}, "search.halving.eta: .*greater than 1, got 1"),
    ({"halving": {"rugs": 1}}, "search.halving: unknown key: .*'rugs'.*'rungs'"),
    ({"objectives": ["nll"]}, "search: objectives: expected nll or error first and at least one cost, got .'nll'"),
    ({"finalists": 0}, "search.finalists: .*greater than or equal to 1, got 0"),
]


@pytest.mark.parametrize(("search", "message"), MISTAKES, ids=lambda v: str(v)[:50])
def test_a_mistake_is_one_line_that_names_the_field(tree: dict[str, Any], search: dict[str, Any], message: str) -> None:
    """contract: where it is, what was expected and what was got, in one line."""
    changes = deepcopy(search)
    tree["data"] = changes.pop("data", tree["data"])
    tree["search"] |= changes
    with pytest.raises(InputError, match=f"^config: [^\n]*{message}[^\n]*$"):
        parse(tree)


ACCEPTED: list[dict[str, Any]] = [
    {"temperature": {"low": 2, "high": 3}},  # the default points lie outside
    {"temperature": 2, "alpha": 0.5, "trials": 2},
    {"temperature": 2, "alpha": 0.5, "losses": KD_OR_MSE},
    {"temperature": 2, "alpha": 0.5, "losses": [{"name": "dkd", "options": {"beta": {"low": 1, "high": 2}}}]},
    {"alpha": {"low": 0, "high": 1}, "lr": "1e-3"},
    {"losses": KD_OR_MSE, "initial_points": [{"loss": "mse", "temperature": 8, "alpha": 0.3}]},
]


@pytest.mark.parametrize("search", ACCEPTED, ids=str)
def test_what_is_right_is_taken(tree: dict[str, Any], search: dict[str, Any]) -> None:
    """contract: the neighbours of the mistakes above are taken, and survive a dump."""
    tree["search"] |= search
    experiment = parse(tree)
    assert parse(experiment.model_dump(mode="json")) == experiment


def test_a_share_needs_something_without_a_label(tree: dict[str, Any]) -> None:
    """contract: views or unlabelled rows give it a meaning."""
    tree["search"]["unlabeled_fraction"] = FEW
    views = {"count": 2, "transforms": [{"name": "noise"}]}
    assert parse({**tree, "student": {**tree["student"], "views": views}}).search.unlabeled_fraction == Range(**FEW)
    table = {"source": "table", "path": "a.csv", "label": "y", "unlabeled_path": "b.csv"}
    assert parse({**tree, "data": table}).search.unlabeled_fraction == Range(**FEW)
    with pytest.raises(InputError, match=r"search\.unlabeled_fraction: expected student\.views"):
        parse({**tree, "data": {**table, "unlabeled_path": None}})


def test_rungs_are_shares_of_the_epochs() -> None:
    """golden: 1/eta, 1/eta², ... of the epochs, whole, distinct, at least 1 and before the end."""
    assert Halving().epochs(130) == [32, 65]
    assert Halving(eta=3, rungs=3).epochs(81) == [3, 9, 27]
    assert Halving(rungs=4).epochs(4) == [1, 2]
    assert Halving().epochs(1) == []


def test_ranges_are_those_of_the_section() -> None:
    """golden: a knob without a value is left out; a baseline has no temperature, alpha or share."""
    assert Search().ranges() == {"temperature": Range(low=1, high=8, log=True), "alpha": Range(low=0.3, high=1)}
    assert (
        Search(lr=0.1, unlabeled_fraction=0.0).ranges() | {"lr": 0.1, "unlabeled_fraction": 0.0}
        == Search(lr=0.1, unlabeled_fraction=0.0).ranges()
    )
    assert Knobs(noise=0.0).ranges() == {"noise": 0.0} and Knobs().ranges() == {}
    assert set(Knobs.model_fields) == {"lr", "weight_decay", "noise", "label_smoothing", "initial_points"}


def test_a_setting_survives_a_dump() -> None:
    """property: as a record of search.json and back; the loss keeps its options, and goes before the config's."""
    own = Loss(name="dkd", beta=3.0)
    setting = Setting(temperature=2.0, alpha=0.5, loss=own)
    assert Setting(**setting.model_dump(mode="json")) == setting
    assert setting.chosen_loss(Loss()) == own and Setting().chosen_loss(own) == own
    assert own.options == {"target_weight": 1.0, "beta": 3.0}


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_option_of_a_loss_can_be_searched(name: str) -> None:
    """property: each option of each loss takes a range, and both of its ends are checked."""
    for option in LOSSES.options(name).model_fields:
        assert LossSpace(name=name, options={option: {"low": 1, "high": 2}}).options[option] == Range(low=1, high=2)
        for bad in ({"low": -1, "high": 2}, -1):
            with pytest.raises(ValueError, match=option):
                LossSpace(name=name, options={option: bad})


def test_an_earlier_name_of_a_key_of_a_recipe_is_refused_with_the_name_of_today(tree: dict[str, Any]) -> None:
    """contract of error messages: in the file and in an override alike."""
    tree["student"]["recipe"]["augment"] = {"light": 0.2}
    with pytest.raises(InputError, match=r"student\.recipe\.augment: expected 'brightness', got 'light'"):
        parse(tree)
