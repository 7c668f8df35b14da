"""Rules of the tree that no linter holds."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "src").rglob("*.py"))
SOURCES = [*LIBRARY, *sorted((ROOT / "flows").rglob("*.py"))]
FIND = "import importlib.util; print(importlib.util.find_spec('mlflow').origin)"


def name_of(file: Path) -> str:
    """Path below the repository."""
    return str(file.relative_to(ROOT))


def undocumented(node: ast.AST, path: str = "") -> Iterator[str]:
    """Public functions, classes and methods without a docstring."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            if not ast.get_docstring(child):
                yield f"{path}{child.name}"
            if isinstance(child, ast.ClassDef):
                yield from undocumented(child, f"{path}{child.name}.")


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_everything_public_says_what_it_gives(file: Path) -> None:
    """contract: every module, and every public function, class and method in it, has a docstring."""
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree)
    assert list(undocumented(tree)) == []


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_files_are_short(file: Path) -> None:
    """contract: 300 lines at most."""
    assert len(file.read_text().splitlines()) <= 300


@pytest.mark.parametrize("file", LIBRARY, ids=name_of)
def test_the_library_prints_nothing(file: Path) -> None:
    """contract: no call of `print` in src."""
    calls = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)]
    assert [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"] == []


def test_the_servers_folder_holds_no_python() -> None:
    """contract: mlflow/ has no Python in it, so that in the repository `import mlflow` is still the package."""
    assert list((ROOT / "mlflow").rglob("*.py*")) == []
    found = subprocess.run([sys.executable, "-c", FIND], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "site-packages" in Path(found.stdout.strip()).parts
