"""What a run says of its stages where no progress bars can be drawn."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from distillery.config import config_file
from distillery.flows.environment import Places
from distillery.flows.tasks.context import Context
from distillery.store import Handle


def test_every_finished_stage_is_a_line_of_the_log(
    tmp_path: Path, tree: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """golden: its name and time; of several that were made in one go their sum; what was found finished."""
    ctx = Context.untracked(config_file.parse(tree), Places(tmp_path, 1, "cpu"))
    caplog.set_level(logging.INFO, "distillery.flows.tasks.context")
    first, second = (Handle("teachers", name, "", name, seconds=1.25) for name in ("mlp-00", "mlp-01"))
    found = Handle("data", "table", "", "x", seconds=9.0, cached=True)
    ctx.note([found])
    ctx.note([first, second])
    assert caplog.messages == ["data 'table': found finished", "teachers 'mlp-00, mlp-01': finished in 2.5 s"]
    assert ctx.handles == [found, first, second]
