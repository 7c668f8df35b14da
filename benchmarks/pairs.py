"""Two ways to do the same work, measured in turn: reference, candidate, reference, candidate, ...

Both sides run in one process with one thread, after one call of each that does not count. A process of its own for
every measurement would add seconds of imports to calls of a few hundred milliseconds, and put more time between the
two sides of a pair; here they follow each other closely, so that what else the machine does hits both alike. Memory
that the side before left behind is collected first. Work that is a whole program (`program`) starts its own process.
"""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def one_thread() -> None:
    """Torch, BLAS and the programs that are started from here use one thread each."""
    os.environ |= dict.fromkeys(THREADS, "1")
    torch.set_num_threads(1)
    threadpool_limits(1)


@dataclass(frozen=True)
class Cost:
    """Seconds; `cpu` counts all threads and the programs that were waited for."""

    cpu: float
    wall: float

    def __truediv__(self, units: float) -> Cost:
        return Cost(self.cpu / units, self.wall / units)


def cost_of(work: Callable[[], object]) -> Cost:
    """What one call costs."""
    gc.collect()
    cpu, wall = _cpu_seconds(), time.perf_counter()
    work()
    return Cost(_cpu_seconds() - cpu, time.perf_counter() - wall)


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def program(command: list[str], **environment: str) -> Callable[[], None]:
    """A call that runs a program to its end, its output dropped."""

    def run() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})

    return run


@dataclass(frozen=True)
class Side:
    """One way to do the work; a call of `work` does `units` of it, and all figures are per unit."""

    name: str
    work: Callable[[], object]
    units: float = 1.0


@dataclass(frozen=True)
class Pairing:
    """Costs per unit of both sides, pair by pair."""

    names: tuple[str, str]
    reference: list[Cost]
    candidate: list[Cost]

    def ratios(self, by: str = "cpu", *, inverse: bool = False) -> list[float]:
        """How many times cheaper the candidate is in each pair; `inverse`: how many times as dear."""
        found = [getattr(a, by) / getattr(b, by) for a, b in zip(self.reference, self.candidate, strict=True)]
        return [1 / ratio for ratio in found] if inverse else found

    def medians(self) -> dict[str, dict[str, Any]]:
        """Median seconds per unit of both sides."""
        sides = zip(("reference", "candidate"), self.names, (self.reference, self.candidate), strict=True)
        return {
            side: {"what": name} | {f"{k}_s": float(np.median([getattr(c, k) for c in costs])) for k in ("cpu", "wall")}
            for side, name, costs in sides
        }


def in_turn(sides: list[Side], rounds: int, *, warm: bool = True) -> list[list[Cost]]:
    """Each side's costs, measured in turn for some rounds; by default a first call of each does not count."""
    if warm:
        for side in sides:
            side.work()
    costs: list[list[Cost]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, mine in zip(sides, costs, strict=True):
            mine.append(cost_of(side.work) / side.units)
    return costs


def paired(references: list[Side], candidate: Side, rounds: int, *, warm: bool = True) -> list[Pairing]:
    """The candidate against each of the references, all measured in turn."""
    *theirs, mine = in_turn([*references, candidate], rounds, warm=warm)
    return [Pairing((r.name, candidate.name), costs, mine) for r, costs in zip(references, theirs, strict=True)]


@dataclass
class Results:
    """The rows of one part."""

    part: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def row(
        self,
        line: str,
        name: str,
        pairing: Pairing,
        goal: float | None,
        unit: str,
        *,
        by: str = "cpu",
        most: bool = False,
        **more: Any,
    ) -> None:
        """Median, lowest and highest of the paired ratios, against one line of what is to be reached.

        Args:
            line: Number of the goal.
            name: What is compared.
            pairing: The measurement.
            goal: What the ratio is to reach; None where it is told for information.
            unit: Of the ratio.
            by: Seconds that are compared: ``cpu`` or ``wall``.
            most: The ratio is candidate / reference and may be at most the goal; else reference / candidate, at least.
            more: Further fields, such as `quality`.
        """
        ratios = pairing.ratios(by, inverse=most)
        seconds = {"by": by, "pairs": len(ratios), **pairing.medians()}
        self.figure(line, name, ratios, goal, unit, most=most, **seconds, **more)

    def figure(
        self, line: str, name: str, values: list[float], goal: float | None, unit: str, *, most: bool, **more: Any
    ) -> None:
        """The same for a figure that is no ratio of seconds."""
        ratio = float(np.median(values))
        met = None if goal is None else bool(ratio <= goal if most else ratio >= goal)
        ends = {"ratio": ratio, "low": min(values), "high": max(values)}
        sense = "at most" if most else "at least"
        self.rows.append(
            {"part": self.part, "line": line, "name": name, **ends, "goal": goal, "sense": sense, "unit": unit}
            | {"met": met, **more}
        )
