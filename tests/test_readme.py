"""The README says what is there: its commands exist, its arguments parse, its files and stages are real."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from distillery.flows.cli import parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
LINES = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]


@pytest.mark.parametrize("line", LINES)
def test_every_command_can_be_given(line: str) -> None:
    """Contract: make targets exist, `distillery` arguments parse, other programs are installed."""
    program, *arguments = shlex.split(line)
    if program == "make":
        assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for target in arguments)
    elif program == ".venv/bin/distillery":
        given = parser().parse_args(arguments)
        assert not hasattr(given, "config") or (ROOT / given.config).is_file()
    elif program != "export":
        assert shutil.which(Path(program).name, path=str(Path(sys.executable).parent)), program


def test_the_stage_table_follows_the_tree() -> None:
    """Contract: every file that the stage table names exists."""
    rows = re.findall(r"^\| .+ \| .+ \| (`.+`) \|$", README, re.MULTILINE)
    assert len(rows) == 9
    for name in re.findall(r"`([\w/.]+)`", " ".join(rows)):
        assert (ROOT / "src" / "distillery" / name).exists(), name


def test_continuous_integration_calls_the_readme_command() -> None:
    """Contract: CI runs what a user is told to run."""
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")
    assert "make test" in LINES
