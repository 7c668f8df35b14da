"""A loss and a network from the user's own file."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_chain import Chain

from distillery.config import config_file
from distillery.config.experiment import Experiment
from distillery.config.search_space import Setting
from distillery.errors import InputError
from distillery.losses import LOSSES
from distillery.losses.kd import kd
from distillery.models import MODELS
from distillery.stages.distillation.soft_losses import check_loss
from distillery.stages.students.student_files import load_student
from distillery.stages.students.student_training import TrainingRequest, train_students
from distillery.stages.teachers.member_keys import content_key
from distillery.store import Store

CODE = '''
import torch
from torch import nn
from distillery.losses.kd import kd


def scaled(student, teacher, labels, temperature, *, factor: float = 1.0):
    """Plain distillation, times a factor."""
    return (factor * kd(student, teacher, labels, temperature)[..., None, None]).sum((-1, -2))


def scalar(student, teacher, labels, temperature):
    return kd(student, teacher, labels, temperature).mean()


def detached(student, teacher, labels, temperature):
    return kd(student.detach(), teacher, labels, temperature)


def broken(student, teacher, labels, temperature):
    return student + torch.zeros(7)


class Tiny(nn.Module):
    """A network with a layer of its own."""

    def __init__(self, spec, *, width: int = 4):
        super().__init__()
        self.first, self.last = nn.Linear(spec.shape[0], width), nn.Linear(width, spec.classes)

    def forward(self, rows):
        return self.last(torch.tanh(self.first(rows)))


NUMBER = 7
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The user's file."""
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


def with_loss(tree: dict[str, Any], loss: dict[str, Any]) -> Experiment:
    """The tiny experiment with another loss."""
    changed = copy.deepcopy(tree)
    changed["student"]["loss"] = loss
    return config_file.parse(changed)


def test_an_own_loss_and_network_train_a_student(chain: Chain, tree: dict[str, Any], file: Path, store: Store) -> None:
    """reference: with the factor 1 the own loss gives the student of `kd`, to 1e-6; it is loaded again."""
    changed = copy.deepcopy(tree)
    changed["student"]["capacities"] = [{"name": "mine", "family": f"{file}:Tiny", "width": 5}]
    changed["search"]["select"] = "best"
    changed["search"]["trials"] = 2
    plain = config_file.parse(changed)
    changed["student"]["loss"] = {"name": f"{file}:scaled"}
    own = config_file.parse(changed)
    (capacity,), found = own.student.capacities, []
    for config in (plain, own):
        wanted = [TrainingRequest(Setting(temperature=2.0, alpha=0.7), 0)]
        handles = train_students(
            capacity, wanted, config.student, chain.data, chain.ensemble, list(chain.taught), store
        )
        found.append(load_student(handles[0], chain.dataset.spec))
        assert not handles[0].cached
    assert found[0].state_dict().keys() == found[1].state_dict().keys()
    for name, value in found[0].state_dict().items():
        assert np.allclose(value, found[1].state_dict()[name], atol=1e-6), name


def test_a_change_of_the_file_is_a_change_of_the_config(tree: dict[str, Any], file: Path) -> None:
    """contract: the digest is part of what is fingerprinted, never an option, and a dump can be read again."""
    before = with_loss(tree, {"name": f"{file}:scaled", "factor": 2.0})
    again = config_file.parse(before.model_dump(mode="json"))
    assert again == before and again.student.loss.options == {"factor": 2.0}
    code = before.student.loss.model_dump()["code"]
    file.write_text(CODE.replace("times a factor", "times a number"))
    after = with_loss(tree, {"name": f"{file}:scaled", "factor": 2.0})
    assert after.student.loss.model_dump()["code"] != code
    network = config_file.parse(
        {**tree, "student": {**tree["student"], "capacities": [{"name": "m", "family": f"{file}:Tiny"}]}}
    ).student.capacities[0]
    file.write_text(CODE)
    assert content_key(network)[0]["code"] != content_key(network.model_validate(network.model_dump()))[0]["code"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.py:scaled", "expected a file '.*gone.py', which does not exist"),
        ("mine.py:scaledd", "expected a function or class 'scaledd' in .*mine.py, got none"),
        ("mine.py:NUMBER", "expected a function or class 'NUMBER'"),
        ("bad.py:scaled", "cannot be run: ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(tree: dict[str, Any], file: Path, name: str, message: str) -> None:
    """contract: one error that names the file and what is missing, when the config is read."""
    (file.parent / "bad.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match=message):
        with_loss(tree, {"name": f"{file.parent / name}"})


def test_options_of_an_own_loss_are_checked(tree: dict[str, Any], file: Path) -> None:
    """contract: as those of any other loss."""
    with pytest.raises(InputError, match=r"unknown option of loss .*expected one of factor"):
        with_loss(tree, {"name": f"{file}:scaled", "facto": 2.0})
    with pytest.raises(InputError, match="factor: "):
        with_loss(tree, {"name": f"{file}:scaled", "factor": "large"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scalar", r"expected a finite value for each of two models, shape \[2\]"),
        ("detached", "with a gradient|does not require grad"),
        ("broken", "fails: RuntimeError"),
    ],
)
def test_an_own_loss_is_tried_before_anything_trains(file: Path, name: str, message: str) -> None:
    """contract: one that cannot train several models at once, or teaches nothing, is refused."""
    with pytest.raises(InputError, match=message):
        check_loss(f"{file}:{name}", 3, "student.loss")
    check_loss(f"{file}:scaled", 3, "student.loss")


def test_own_names_are_not_offered(file: Path) -> None:
    """contract: lists of the known names hold those of the package alone, also after a file was used."""
    assert callable(LOSSES[f"{file}:scaled"]) and LOSSES["kd"] is kd
    assert not [name for registry in (LOSSES, MODELS) for name in registry.names() if ".py:" in name]


def test_the_documented_example_works(chain: Chain, tmp_path: Path) -> None:
    """contract: the file in docs/methods.md holds a loss that can train, equal to `kd` at gamma 0, and a network."""
    text = (Path(__file__).parent.parent / "docs" / "methods.md").read_text()
    (tmp_path / "mine.py").write_text(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0])
    check_loss(f"{tmp_path}/mine.py:focal", 3, "student.loss")
    student, teacher = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    given = student, teacher, torch.zeros(2, 5, dtype=torch.int64), torch.full((2, 1, 1), 3.0)
    assert torch.allclose(LOSSES[f"{tmp_path}/mine.py:focal"](*given), kd(*given), atol=1e-5)
    network = MODELS[f"{tmp_path}/mine.py:Tiny"](chain.dataset.spec, width=3)
    assert network(torch.zeros(4, *chain.dataset.spec.shape)).shape == (4, chain.dataset.spec.classes)
