"""Writes the tables of docs/reference.md from the config's own fields.

``python -m distillery.config.reference`` in the repository rewrites the file (`make reference`).
"""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from distillery.config import data, experiment, gates, search_space
from distillery.losses import LOSSES
from distillery.models import MODELS
from distillery.registry import Registry
from distillery.sources import SOURCES
from distillery.views import VIEWS
from distillery.weightings import WEIGHTINGS

BEGIN = "<!-- Below this line the file is written by `make reference`. -->\n"

# Where a section stands in a config, in the order of the chain.
SECTIONS: dict[str, type[BaseModel]] = {
    "(top level)": experiment.Experiment,
    "data": data.Data,
    "data.split": data.Split,
    "teachers": experiment.Teachers,
    "teachers.members": experiment.Teacher,
    "teachers.recipe, student.recipe": experiment.Recipe,
    "teachers.recipe.augment, student.recipe.augment": experiment.Augment,
    "logits": experiment.Logits,
    "ensemble": experiment.Ensemble,
    "ensemble.weightings": experiment.Weighting,
    "student": experiment.Student,
    "student.capacities": experiment.Capacity,
    "student.loss": search_space.Loss,
    "student.views": experiment.Views,
    "student.views.transforms": experiment.View,
    "search": search_space.Search,
    "search.baseline": search_space.Knobs,
    "search.halving": search_space.Halving,
    "search.losses": search_space.LossSpace,
    "a range of `search`": search_space.Range,
    "evaluation": experiment.Evaluation,
    "gates": gates.Gate,
}
REGISTRIES: dict[str, Registry] = {
    "data.source": SOURCES,
    "family": MODELS,
    "ensemble.weightings": WEIGHTINGS,
    "student.loss, search.losses": LOSSES,
    "student.views.transforms": VIEWS,
}


def tables() -> str:
    """Returns the generated part of docs/reference.md."""
    parts = ["## Config sections\n"]
    for field, section in SECTIONS.items():
        parts.append(section_table(field, section))

    parts.append("## Registered choices\n")
    parts.append("Each of them takes its options beside its name.\n")
    for field, registry in REGISTRIES.items():
        parts.append(choices_table(field, registry))

    parts.append("## Figures of gates\n")
    rows = [[f"`{name}`", meaning] for name, meaning in gates.FIGURES.items()]
    parts.append(table(["figure", "meaning"], rows))
    return "\n".join(parts)


def section_table(place: str, section: type[BaseModel]) -> str:
    """Returns a heading, the section's own sentence and a table of its keys."""
    first = _first_paragraph(section)
    rows = []
    for name, field in section.model_fields.items():
        kind = kind_of(field.annotation)
        rows.append([f"`{name}`", kind, default_of(field), field.description or ""])
    heading = f"### {place}\n" if "`" in place or "(" in place else f"### `{place}`\n"
    return f"{heading}\n{first}\n\n{table(['key', 'type', 'default', 'meaning'], rows)}"


def choices_table(place: str, registry: Registry) -> str:
    """Returns a heading and a table of the registered names with their options."""
    rows = []
    for name in registry.names():
        options = []
        for option, field in registry.options(name).model_fields.items():
            options.append(f"`{option}` ({default_of(field)})")
        rows.append([f"`{name}`", ", ".join(options), _first_line(registry[name])])
    return f"### `{place}`\n\n{table(['name', 'options (default)', 'what it is'], rows)}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def kind_of(annotation: object) -> str:
    """Returns what a key holds, in the words of a YAML file."""
    origin = get_origin(annotation)
    inner = get_args(annotation)
    if origin is Annotated:
        return kind_of(inner[0])
    if origin is Literal:
        return ", ".join(str(value) for value in inner)
    if origin in (Union, UnionType):
        kinds = [kind_of(kind) for kind in inner if kind is not type(None)]
        return " or ".join(reversed(kinds))
    if origin in (tuple, list):
        return f"list of {kind_of(inner[0])}"
    if origin is dict:
        return "keys"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "range" if annotation is search_space.Range else "keys"
    names: dict[object, str] = {int: "whole number", float: "number", str: "text", bool: "true, false"}
    return names.get(annotation, "any value")


def default_of(field: FieldInfo) -> str:
    """Returns a default as a YAML file would spell it."""
    if field.default_factory is not None:
        return "empty"
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel) and not isinstance(field.default, search_space.Range):
        return "its defaults"
    if field.default == gates.SHIP_GATES:
        return "see docs/methods.md"
    return _yaml(field.default)


def _yaml(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_yaml(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value != "" else '""'


def _first_line(documented: object) -> str:
    return (documented.__doc__ or "").strip().split("\n")[0]


def _first_paragraph(documented: object) -> str:
    paragraph = (documented.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split())


def write(file: Path) -> None:
    """Replaces the generated part of a file; what a person wrote above it stays."""
    written, _, _ = file.read_text().partition(BEGIN)
    file.write_text(f"{written}{BEGIN}\n{tables()}")


if __name__ == "__main__":
    write(Path("docs/reference.md"))
