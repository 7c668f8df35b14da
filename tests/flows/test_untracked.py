"""The chain without Prefect and MLflow."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from reports import without_timing

from distillery.config.config_file import load
from distillery.flows.environment import Places
from distillery.flows.pipeline import run_chain
from distillery.flows.tasks.context import Context
from distillery.stages.data.preparation import read_source
from distillery.stages.report.record import Report

IMPORTED = """
import sys
import distillery.flows.pipeline
print(*(name for name in ("prefect", "mlflow") if name in sys.modules))
"""


def test_a_run_finds_what_a_tracked_one_made_and_reports_the_same(
    tmp_path: Path, tiny: Path, tiny_run: tuple[Path, Report]
) -> None:
    """resume: both give every stage the same key; without a registry there is no version, and no decision to count."""
    home, tracked = tiny_run
    shutil.copytree(home / ".distillery", tmp_path / ".distillery")
    config = load(tiny)
    ctx = Context.untracked(config, Places(tmp_path, workers=1, device="cpu"))
    report = run_chain(ctx, read_source(config.data))
    assert isinstance(report, Report)
    assert all(handle.cached for handle in ctx.handles) and {"teachers", "students"} <= {h.stage for h in ctx.handles}
    assert report.promotion.version is None and report.promotion.decisions is None

    found, expected = without_timing(report), without_timing(tracked)
    for tree in (found, expected):
        del tree["promotion"]["version"], tree["promotion"]["decisions"]
    assert found == expected
    page = (tmp_path / "runs" / "tiny" / "report.html").read_text()
    assert "it is not registered" in page and "Version None" not in page


def test_the_chain_imports_neither_prefect_nor_mlflow() -> None:
    """contract: a user of the library alone does not wait for them."""
    found = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
