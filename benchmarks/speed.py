"""The speed benchmark: what the project's work costs, each figure paired with a reference in the same run.

    python benchmarks/speed.py [--only trials teachers ...] [--rounds 3]

Writes ``benchmarks/results/speed.json`` (one row for each comparison) and prints it as tables. Parts that were not
asked for keep the rows of their last run. torchdistill is compared with where it is installed (``pip install
distillery[bench]``). Figures are seconds of one thread; see pairs.py for how they are measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import image_references
import memory
import numpy as np
import shared_work
import side_by_side
import speed_images
import speed_tables
from ours import write_logits
from pairs import Results, Side, one_thread, paired, program
from rich.console import Console
from tables import show_speed

from distillery.config.experiment import Logits
from distillery.stages.logits.logit_cache import read_logits
from distillery.store import write_json

ROOT = Path(__file__).resolve().parent.parent
ARRAY = (12, 20_000, 100)  # views, rows, classes
RATE = 1e9  # bytes per second that reading is to reach, unless memory is slower than twice that
console = Console(width=150)


def store(results: Results, rounds: int) -> None:
    """Line 5: reading logits from the page cache, and their size on disk."""
    values = np.random.default_rng(0).normal(0, 4, ARRAY).astype(np.float16)
    target = np.empty_like(values)

    def copies() -> None:
        for _ in range(10):
            np.copyto(target, values)

    with tempfile.TemporaryDirectory() as folder:
        handle = write_logits(Path(folder), values, Logits())
        read = Side("read_logits", partial(read_logits, handle), 1)
        copy = Side("numpy.copyto", copies, 10)
        [measured] = paired([copy], read, rounds)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    copied, taken = (measured.medians()[side]["cpu_s"] for side in ("reference", "candidate"))
    rates = {"reference": values.nbytes / copied / 1e9, "candidate": values.nbytes / taken / 1e9}
    goal = min(0.5, RATE * copied / values.nbytes)
    views, rows, classes = ARRAY
    title = f"reading {views} x {rows:,} x {classes} float16 logits, against a copy in memory"
    results.row("5", title, measured, goal, "of the copy's rate", gigabytes_per_s=rates)
    results.figure("5", "bytes on disk, against raw float16", [size / values.nbytes], 1.05, "times as many", most=True)


def overhead(results: Results, rounds: int) -> None:
    """Line 6: whole runs against the same chain called as library functions, one worker and new databases each."""
    command = str(Path(sys.executable).with_name("distillery"))
    for name in ("tabular", "digits"):
        config = str(ROOT / f"configs/{name}.yaml")

        def whole(config: str = config) -> None:
            with tempfile.TemporaryDirectory() as home:
                places = {"DISTILLERY_HOME": home, "PREFECT_HOME": f"{home}/prefect", "DISTILLERY_WORKERS": "1"}
                program([command, "run", config], **places)()

        def alone(config: str = config) -> None:
            with tempfile.TemporaryDirectory() as home:
                program([sys.executable, str(ROOT / "benchmarks/chain.py"), config, home])()

        [measured] = paired([Side("the library alone", alone)], Side("distillery run", whole), 1, warm=False)
        title = f"the {name} run with orchestrator and tracker, against the library alone"
        results.row("6", title, measured, 1.05, "times as long", by="wall", most=True)


PARTS: dict[str, Callable[[Results, int], None]] = {
    "trials": speed_tables.trials,
    "teachers": speed_tables.teachers,
    "images": speed_images.images,
    "input": speed_images.images_input,
    "store": store,
    "growth": speed_tables.growth,
    "overhead": overhead,
    "workers": shared_work.workers,
    "students": side_by_side.side_by_side,
    "memory": memory.memory,
}
ON_REQUEST = ("memory",)  # takes as long as all the others


def main() -> None:
    """Runs the parts and merges them with those that ran before."""
    parser = argparse.ArgumentParser(description="speed benchmark")
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), default=[part for part in PARTS if part not in ON_REQUEST]
    )
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each side")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "speed.json")
    given = parser.parse_args()
    one_thread()
    rows = json.loads(given.out.read_text())["rows"] if given.out.exists() else []
    if "images" in given.only and not image_references.TORCHDISTILL:
        console.print("torchdistill is not installed: its row is left out")
    for name in given.only:
        results, began = Results(name), time.perf_counter()
        PARTS[name](results, given.rounds)
        console.print(f"{name}: {time.perf_counter() - began:.0f} s", highlight=False)
        command = f"python benchmarks/speed.py --only {name}"
        rows = [row for row in rows if row["part"] != name] + [{**row, "command": command} for row in results.rows]
        rows.sort(key=lambda row: list(PARTS).index(row["part"]))
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.out, {"rows": rows})
    show_speed(rows, console)


if __name__ == "__main__":
    main()
