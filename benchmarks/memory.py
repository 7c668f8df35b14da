"""Line 7: the memory of large runs, as the sum of what all their processes hold, shared pages counted once."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from pairs import Results
from PIL import Image
from sklearn.datasets import make_classification

from distillery.config.config_file import load

ROOT = Path(__file__).resolve().parent.parent
ROWS, IMAGES = 1_000_000, 100_000
MEMBERS, VOTES, CLASSES = 12, 30_000, 1_000
EVERY_SECONDS = 0.2
SHORT = [  # as long as it takes to come through every stage once; what is held does not depend on it
    "teachers.recipe.epochs=1",
    "student.recipe.epochs=1",
    "search.epochs=1",
    "search.trials=6",
    "search.seeds=1",
    "search.finalists=1",
    "search.halving=null",
]
PACK = """
import sys
from distillery.stages.data import dataset, preparation
from distillery.config.data import Data
from distillery.store import Store
data = Data(source="folder", path=sys.argv[1], image_size=32)
preparation.prepare(data, preparation.read_source(data), Store(sys.argv[2]))
"""
ENSEMBLE = """
import sys
import numpy as np
from distillery.config.experiment import Ensemble
from distillery.stages.ensemble.weight_selection import choose
from distillery.memory import room
members, rows, classes = map(int, sys.argv[1:])
generator = np.random.default_rng(0)
labels = generator.integers(0, classes, rows)
logits = room((members, rows, classes), np.float32)
skill = generator.uniform(3, 7, members)
for start in range(0, rows, 1000):
    part = labels[start : start + 1000]
    shared = generator.normal(0, 1.8, (len(part), classes))
    for member in range(members):
        own = shared + generator.normal(0, 1.8, shared.shape)
        own[np.arange(len(part)), part] += 1.5 * skill[member]
        logits[member, start : start + 1000] = own
choose(logits, labels, Ensemble(), [str(member) for member in range(members)])
"""


def memory(results: Results, rounds: int) -> None:
    """A table of a million rows, through the whole chain; a folder of images, packed; weights for many classes."""
    with tempfile.TemporaryDirectory() as folder:
        peak = _table(Path(folder))
    results.figure("7", f"peak memory, a table of {ROWS:,} rows, the whole chain", [peak], 4, "GB", most=True)
    with tempfile.TemporaryDirectory() as folder:
        peak = _images(Path(folder))
    results.figure("7", f"peak memory, packing {IMAGES:,} images of 32 pixels", [peak], 4, "GB", most=True)
    began = time.perf_counter()
    peak = _peak([sys.executable, "-c", ENSEMBLE, *map(str, (MEMBERS, VOTES, CLASSES))], {})
    minutes = (time.perf_counter() - began) / 60
    work = f"the weights of {MEMBERS} members, {CLASSES:,} classes, {VOTES:,} rows"
    results.figure("7", f"peak memory, {work}", [peak], 4, "GB", most=True)
    results.figure("7", f"time of {work}", [minutes], 15, "minutes", most=True)


def _table(folder: Path) -> float:
    x, y = make_classification(
        ROWS, 20, n_informative=10, n_redundant=5, n_clusters_per_class=4, class_sep=0.8, flip_y=0.03, random_state=0
    )
    frame = pd.DataFrame(x, columns=[f"x{i:02d}" for i in range(20)])
    frame["group"] = np.array(list("abcde"))[np.clip(x[:, 0] + 2, 0, 4).astype(int)]
    frame["label"] = np.where(y == 1, "yes", "no")
    frame.to_csv(folder / "rows.csv", index=False, float_format="%.5g")
    del x, y, frame
    members = load(str(ROOT / "configs/table.yaml"), [f"data.path={folder / 'rows.csv'}", "data.label=label"]).teachers
    fewer = [
        f"teachers.members.{number}.params.max_iter=20"
        for number, member in enumerate(members.members)
        if member.family == "sklearn"
    ]
    command = [Path(sys.executable).with_name("distillery"), "run", ROOT / "configs/table.yaml"]
    given = [f"data.path={folder / 'rows.csv'}", "data.label=label", *SHORT, *fewer]
    return _peak([*map(str, command), *given], {"DISTILLERY_HOME": str(folder / "home")})


def _images(folder: Path) -> float:
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        place = folder / "files" / str(number % 10)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(place / f"{number}.bmp")
    return _peak([sys.executable, "-c", PACK, str(folder / "files"), str(folder / "store")], {})


def _peak(command: list[str], environment: dict[str, str]) -> float:
    """Most of what a command and its children held at the same time, 10^9 bytes."""
    process, best = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL), 0
    while process.poll() is None:
        best = max(best, sum(_held(child) for child in _family(process.pid)))
        time.sleep(EVERY_SECONDS)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ... ended with {process.returncode}")
    return best / 1e9


def _family(pid: int) -> list[Any]:
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def _held(process: Any) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0
