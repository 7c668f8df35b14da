"""A whole experiment with the library alone: no orchestrator, no tracker, one process.

    python benchmarks/chain.py CONFIG HOME [key=value ...]

It is the chain of flows/pipeline.py, with its report and the decision about promotion, for which there is no earlier
champion.
"""

from __future__ import annotations

import sys
from pathlib import Path

from distillery.config import config_file
from distillery.flows.environment import Places
from distillery.flows.pipeline import run_chain
from distillery.flows.tasks.context import Context
from distillery.stages.data.preparation import read_source
from distillery.stages.report.record import Report


def main() -> None:
    """Runs a config in a folder and prints the decision."""
    config_path, home, *overrides = sys.argv[1:]
    config = config_file.load(Path(config_path), overrides)
    ctx = Context.untracked(config, Places(Path(home), workers=1, device="cpu"))
    report = run_chain(ctx, read_source(config.data))
    assert isinstance(report, Report)
    print("promoted" if report.promotion.promoted else "rejected", *report.promotion.reasons)


if __name__ == "__main__":
    main()
