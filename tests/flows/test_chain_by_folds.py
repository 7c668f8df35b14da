"""The whole chain with folds for teachers and students."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from folds import by_folds

from distillery.flows.environment import Places
from distillery.flows.pipeline import run_chain
from distillery.flows.tasks.context import Context
from distillery.stages.data.preparation import read_source
from distillery.stages.report.record import Report
from distillery.stages.roles import Role


def test_a_run_by_folds_ends_with_a_report(tree: dict[str, Any], tmp_path: Path) -> None:
    """contract: every row beside test is learned and judges; a second run computes nothing."""
    config = by_folds(tree)
    ctx = Context.untracked(config, Places(tmp_path, workers=1, device="cpu"))
    rows = read_source(config.data)
    report = run_chain(ctx, rows)
    assert isinstance(report, Report)
    assert report.data.rows == {"train": 180, "test": 60}
    assert report.passes.members == 2
    assert report.passes.made == 2 * 180 * (1 + 3)
    for row in report.rows:
        if row.role in (Role.STUDENT, Role.PLAIN, Role.TUNED):
            assert 0.2 < row.val_search_nll < 2

    again = run_chain(Context.untracked(config, Places(tmp_path, workers=1, device="cpu")), rows)
    assert isinstance(again, Report)
    assert again.ledger.computed == 0
