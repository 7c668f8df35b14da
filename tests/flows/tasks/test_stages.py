"""What a run says of its stages where no progress bars can be drawn."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from distillery.flows.environment import Places
from distillery.flows.tasks.stages import Context
from distillery.store import Handle


def test_every_finished_stage_is_a_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """golden: its name and time; of several that were made in one go their sum; what was found finished."""
    ctx = Context(None, Places(tmp_path, 1, "cpu"), None, None, None)  # type: ignore[arg-type]
    caplog.set_level(logging.INFO, "distillery.flows.tasks.stages")
    first, second = (Handle("teachers", name, "", name, seconds=1.25) for name in ("mlp-00", "mlp-01"))
    found = Handle("data", "table", "", "x", seconds=9.0, cached=True)
    ctx.done(found)
    ctx.done_all([first, second])
    assert caplog.messages == ["data 'table': found finished", "teachers 'mlp-00, mlp-01': finished in 2.5 s"]
    assert ctx.handles == [found, first, second]
