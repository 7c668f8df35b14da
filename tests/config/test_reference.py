"""docs/reference.md, and the descriptions of the config's fields that it is made of."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from distillery.config import reference
from distillery.config.section import Choice, Section
from distillery.flows.cli import parser

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def below(base: type[BaseModel]) -> set[type[BaseModel]]:
    """Every class of the config that derives from `base`."""
    found = set()
    for section in base.__subclasses__():
        found |= {section} | below(section)
    return {section for section in found if section.__module__.startswith("distillery.config.")}


def test_the_reference_is_up_to_date(tmp_path: Path) -> None:
    """golden: the generated part is what `make reference` writes; what stands above it is kept."""
    copy = tmp_path / "reference.md"
    copy.write_text(REFERENCE)
    reference.write(copy)
    assert copy.read_text() == REFERENCE, "run `make reference`"


def test_every_section_has_a_table() -> None:
    """contract: whatever a config may hold is in the reference; `Setting` and `Model` are no part of a config."""
    held = below(Section) | below(Choice)
    missing = {section.__name__ for section in held - set(reference.SECTIONS.values())}
    assert missing == {"Setting", "Model"}


@pytest.mark.parametrize("section", reference.SECTIONS.values(), ids=lambda section: section.__name__)
def test_every_field_is_described(section: type[BaseModel]) -> None:
    """contract: no field of a config is without a description."""
    undescribed = [name for name, field in section.model_fields.items() if not field.description]
    assert undescribed == []


def test_every_command_is_in_the_reference() -> None:
    """contract: the table of commands names each of them, and no other."""
    (commands,) = [a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)]
    described = re.findall(r"^\| `([a-z]+)[ `]", REFERENCE.partition("## Environment")[0], re.MULTILINE)
    assert set(described) == set(commands.choices)


def test_every_variable_is_in_the_reference() -> None:
    """contract: every DISTILLERY_ variable that the code reads has a row."""
    files = [*(ROOT / "src" / "distillery").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]
    used = set()
    for file in files:
        used |= set(re.findall(r'"(DISTILLERY_[A-Z_]+)"', file.read_text()))
    described = set(re.findall(r"^\| `(DISTILLERY_[A-Z_]+)`", REFERENCE, re.MULTILINE))
    assert used == described
