"""From a YAML file and overrides to an experiment, with one clear line for whatever is wrong."""

from __future__ import annotations

import difflib
from pathlib import Path

import yaml
from pydantic import ValidationError

from distillery.config.experiment import Experiment
from distillery.errors import InputError


def load(path: Path | str, overrides: tuple[str, ...] | list[str] = ()) -> Experiment:
    """The experiment in a YAML file, with ``key.path=value`` overrides applied.

    Raises:
        InputError: The file cannot be read, or a field is unknown, missing or out of range.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"config: expected a YAML file, got {str(path)!r}, which does not exist")
    try:
        tree = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected keys and values, got {type(tree).__name__}")
    if not all(isinstance(key, str) for key in tree):
        raise InputError(f"{path}: expected keys that are text, got {[k for k in tree if not isinstance(k, str)]}")
    for override in overrides:
        _apply(tree, override)
    return parse(tree, str(path))


def parse(tree: dict[str, object], where: str = "config") -> Experiment:
    """The experiment described by `tree`; `where` opens every error message."""
    try:
        return Experiment(**tree)
    except ValidationError as error:
        first = error.errors()[0]
        # pydantic's path names its own validators too, such as function-after[...]
        field = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            problem = "expected a value, got none"
        elif first["type"] != "value_error":
            problem = f"{problem[0].lower()}{problem[1:]}, got {first['input']!r}"
        raise InputError(" ".join(f"{where}: {field + ': ' if field else ''}{problem}".split())) from None


def _apply(tree: dict[str, object], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise InputError(f"override: expected key=value, got {override!r}")
    *parents, last = path.split(".")
    node: dict[str, object] | list[object] = tree
    for part in parents:
        child = node[_index(node, part, path)] if isinstance(node, list) else node.setdefault(part, {})
        if not isinstance(child, dict | list):
            raise InputError(f"override {path!r}: {part!r} holds a value, not further keys")
        node = child
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"override {path!r}: not valid YAML: {' '.join(str(error).split())}") from error
    if isinstance(node, list):
        node[_index(node, last, path)] = value
    else:
        node[last] = value


def _index(node: list[object], part: str, path: str) -> int:
    by_name = [i for i, item in enumerate(node) if isinstance(item, dict) and item.get("name") == part]
    if by_name:
        return by_name[0]
    if part.isdigit() and int(part) < len(node):
        return int(part)
    names = [str(item.get("name")) for item in node if isinstance(item, dict)]
    near = difflib.get_close_matches(part, names, n=1)
    raise InputError(
        f"override {path!r}: expected an index below {len(node)} or a name, got {part!r} {near or ''}".strip()
    )
