"""What a decision says of the project that it was made in, with a real git repository."""

import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from distillery.flows.tracking.provenance import commit, now, who


def _git(*arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.com"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: git's own; a changed file is said, one that git does not know is not."""
    monkeypatch.chdir(tmp_path)
    assert commit() is None
    _git("init", "-q")
    Path("config.yaml").write_text("seed: 1\n")
    _git("add", "config.yaml")
    _git("commit", "-qm", "first")
    _git("tag", "-a", "v1", "-m", "a tag does not take the place of the commit")
    Path("rows.csv").write_text("x\n")
    assert commit() == _git("rev-parse", "HEAD")
    Path("config.yaml").write_text("seed: 2\n")
    assert commit() == f"{_git('rev-parse', 'HEAD')}-dirty"


def test_who_and_when_need_no_name_for_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract: a container's user may have no name; the time is UTC."""
    assert datetime.fromisoformat(now()).utcoffset() == timedelta(0)
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)
    assert who().startswith("54321@")
