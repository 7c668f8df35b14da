"""The registry: one file is one choice, its keyword-only parameters are its options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from distillery.errors import InputError
from distillery.registry import Registry, closest, nearest_first

PLUGIN = """
from shapes import SHAPES

@SHAPES.register("{name}", corners={corners})
def {name}(data, *, size: int = {corners}):
    return [data] * size
"""


@pytest.fixture
def colours() -> Registry[int, dict[str, Any]]:
    """A registry with one entry, filled by hand."""
    found = Registry("colour", "distillery.losses", dict)

    def not_too_deep(options: dict[str, Any]) -> None:
        if options["depth"] > 9:
            raise InputError(f"depth: expected at most 9, got {options['depth']}")

    @found.register("blue", warm=False, check=not_too_deep)
    def blue(data: int, other: int, *, depth: int, tint: Literal["dark", "light"] = "dark") -> int:
        return data + other + depth

    return found


def test_a_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract: a file put into the folder is a choice, with its options and traits, and nothing else is edited."""
    package = tmp_path / "shapes"
    package.mkdir()
    (package / "__init__.py").write_text(
        'from distillery.registry import Registry\nSHAPES = Registry("shape", "shapes", dict)\n'
    )
    for name, corners in (("square", 4), ("triangle", 3)):
        (package / f"{name}.py").write_text(PLUGIN.format(name=name, corners=corners))
    monkeypatch.syspath_prepend(tmp_path)
    from shapes import SHAPES  # type: ignore[import-not-found]

    assert SHAPES.names() == ["square", "triangle"]
    assert SHAPES.traits("triangle") == {"corners": 3}
    assert SHAPES["square"]("x", **SHAPES.check("square", {"size": 2})) == ["x", "x"]


def test_options_are_the_keyword_only_parameters(colours: Registry) -> None:
    """golden: positional parameters are data; defaults are filled in and types are checked."""
    assert list(colours.options("blue").model_fields) == ["depth", "tint"]
    assert colours.check("blue", {"depth": "3"}) == {"depth": 3, "tint": "dark"}
    assert colours["blue"](1, 2, **colours.check("blue", {"depth": 3})) == 6


WRONG: list[tuple[Callable[[Registry], Any], str]] = [
    (lambda r: r["bleu"], r"unknown colour: expected one of blue, got 'bleu' \(did you mean 'blue'\?\)"),
    (lambda r: r.traits("x"), "unknown colour: expected one of blue, got 'x'"),
    (lambda r: r.check("blue", {"dept": 3}, also=["name"]), "expected one of depth, name, tint, got 'dept'"),
    (lambda r: r.check("blue", {}), "colour 'blue' needs the option 'depth'"),
    (lambda r: r.check("blue", {"depth": "x"}), "depth: .*, got 'x'"),
    (lambda r: r.check("blue", {"depth": 1, "tint": "pale"}), "tint: .*'dark' or 'light', got 'pale'"),
    (lambda r: r.check("blue", {"depth": 10}), "depth: expected at most 9, got 10"),
]


@pytest.mark.parametrize(("ask", "message"), WRONG, ids=[m for _, m in WRONG])
def test_mistakes_are_told(colours: Registry, ask: Callable[[Registry], Any], message: str) -> None:
    """contract: an unknown name, an unknown, missing or wrong option, and a failed check are InputErrors."""
    with pytest.raises(InputError, match=message):
        ask(colours)


def test_a_name_is_taken_once(colours: Registry) -> None:
    """contract: two files cannot claim one name."""
    with pytest.raises(AssertionError, match="colour 'blue' is registered twice"):
        colours.register("blue")(lambda: None)


def test_the_nearest_word_is_offered() -> None:
    """golden: the allowed words sorted, the nearest one only where there is one."""
    assert closest("grene", ["red", "green"]) == "expected one of green, red, got 'grene' (did you mean 'green'?)"
    assert closest("zzz", ["red", "green"]) == "expected one of green, red, got 'zzz'"


def test_the_names_most_alike_come_first() -> None:
    """golden: names that are spelt alike move to the front, the others keep their order."""
    assert nearest_first("labl", ["x", "age", "label", "a"]) == ["label", "x", "age", "a"]
    assert nearest_first("zzz", ["b", "a"]) == ["b", "a"]
