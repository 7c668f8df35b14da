"""The README says what is there: its commands exist, its arguments parse, its files, links and stages are real."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_chain import Chain

from distillery.config.search_space import Loss, Setting
from distillery.flows.cli import main, parser
from distillery.stages.distillation.soft_losses import check_loss
from distillery.stages.students.student_training import TrainingRequest, train_students
from distillery.store import Store

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
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
    elif program != "curl":
        assert shutil.which(Path(program).name, path=str(Path(sys.executable).parent)), program


def test_the_stage_table_follows_the_tree() -> None:
    """Contract: every file that the stage table names exists."""
    rows = re.findall(r"^\| .+ \| .+ \| (`\w+/.+`) \|$", README, re.MULTILINE)
    assert len(rows) == 9
    for name in re.findall(r"`([\w/.]+)`", " ".join(rows)):
        assert (ROOT / "src" / "distillery" / name).exists(), name


def test_the_tree_follows_the_folders() -> None:
    """Contract: every entry of the tree exists, and no package of flows or the library is without an entry."""
    named: set[str] = set()
    folder = ""
    for line in re.findall(r"```text\n(.*?)```", README, re.DOTALL)[-1].splitlines():
        entries = re.split(r" {2,}", line.strip())[0].split()
        if not line.startswith(" "):
            (folder,) = entries
            entries = [""]
        for entry in entries:
            assert (ROOT / folder / entry).exists(), line
            named.add(str(Path(folder) / entry))

    for parent in ("flows", "src/distillery"):
        packages = {str(file.parent.relative_to(ROOT)) for file in (ROOT / parent).glob("*/__init__.py")}
        assert packages - named <= {"flows/commands", "src/distillery/flows"}  # the first is named beside cli.py


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    """Contract: the files and pictures that a document links to exist."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        assert "://" in target or (document.parent / target).exists(), target


def test_continuous_integration_calls_the_readme_command() -> None:
    """Contract: CI runs what a user is told to run."""
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("make test")
    assert "make test" in LINES


def test_checking_data_of_ones_own_is_what_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run as it stands: `distillery check`, in a folder that holds the file that the README speaks of. The runs after
    it take the templates, a minute each; they are run with small configs in tests/flows/test_cli.py."""
    (line,) = [line for line in LINES if " check " in line]
    generator = np.random.default_rng(0)
    table = pd.DataFrame(generator.normal(size=(80, 3)), columns=["a", "b", "c"])
    table.assign(target=np.where(table.a > 0, "yes", "no")).to_csv(tmp_path / "rows.csv", index=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    with pytest.raises(SystemExit, match=r"^0$"):
        main(shlex.split(line)[1:])
    assert "train" in capsys.readouterr().out


def test_a_folder_of_images_is_taken_as_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run with `check` in the place of `run`: the folder has the form that the README shows."""
    (line,) = [line for line in LINES if "configs/images.yaml" in line]
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(60):
            pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.jpg")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["check", *shlex.split(line)[2:]])
    assert "train" in capsys.readouterr().out


def test_the_loss_of_the_readme_teaches_a_student(chain: Chain, tmp_path: Path, store: Store) -> None:
    """Run as it stands: the file's gradient is finite, and a student is trained with it."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.strip().splitlines()) <= 12
    (tmp_path / "focal.py").write_text(code)
    name = f"{tmp_path}/focal.py:focal"
    loss = Loss(name=name, gamma=1.0)
    check_loss(name, 3, "README")
    capacity = chain.config.student.capacities[0]
    requests = [TrainingRequest(Setting(temperature=2.0, alpha=0.7, loss=loss), 0)]
    taught = (chain.config.student, chain.data, chain.ensemble, chain.taught, store)
    (student,) = train_students(capacity, requests, *taught)
    assert torch.isfinite(torch.tensor(student.metrics["nll"]))
