"""The quality benchmark: what ensembles and students reach, over several seeds, each figure from a whole chain.

    python benchmarks/quality.py [--adult TRAIN.csv TEST.csv] [--images FOLDER] [--only tabular ...]

Writes ``benchmarks/results/quality.json`` (rows and goals) and prints them as tables. Finished parts are kept in
``.distillery/bench`` and not computed again. Everything is selected on validation rows; test rows are read for figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy import stats
from tables import show

from distillery.config import config_file
from distillery.ops import metrics
from distillery.ops.pooling import Pooling
from distillery.sources import Rows
from distillery.stages.data import dataset, preparation
from distillery.stages.ensemble import weight_selection
from distillery.stages.logits import logit_cache
from distillery.stages.teachers import groups, teacher_training
from distillery.store import Handle, Store, write_json

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".distillery" / "bench"
SEEDS = range(5)
UNTUNED = [
    "teachers.recipe={epochs: 40, batch_size: 64, lr: 0.001, weight_decay: 0.01}",
    "teachers.members.0.dropout=0.1",
]
console = Console(width=150)


@dataclass
class Results:
    """Rows (one per data set, method and figure) and goals."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    goals: list[dict[str, Any]] = field(default_factory=list)

    def row(self, data: str, method: str, values: list[float], figure: str, unit: str = "") -> None:
        """Mean over seeds with a t interval; one value has none."""
        mean, count = float(np.mean(values)), len(values)
        half = float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count)) if count > 1 else None
        ends = (None, None) if half is None else (mean - half, mean + half)
        self.rows.append(
            {"dataset": data, "method": method, "figure": figure, "mean": mean, "low": ends[0], "high": ends[1]}
            | {"values": values, "unit": unit}
        )

    def goal(self, number: str, text: str, value: float, limit: float, *, least: bool = True) -> None:
        """One line of what is to be reached."""
        met = value >= limit if least else value <= limit
        self.goals.append({"goal": number, "text": text, "value": value, "limit": limit, "met": bool(met)})

    def model(self, data: str, method: str, found: list[dict[str, Any]]) -> None:
        """Accuracy and NLL of one model over seeds."""
        for figure in ("accuracy", "nll"):
            self.row(data, method, [r[figure] for r in found], figure)


def pipeline(config: str, name: str, overrides: list[str]) -> dict[str, Any]:
    """The report of a whole run of the command, in a home of its own."""
    target = HOME / "runs" / name / "report.json"
    command = [str(Path(sys.executable).with_name("distillery")), "run", config, f"name={name}", *overrides]
    console.print(" ".join(["distillery", *command[1:]]), highlight=False)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "DISTILLERY_HOME": str(HOME)})
    report: dict[str, Any] = json.loads(target.read_text())
    return report


def models_of(report: dict[str, Any], role: str, name: str | None = None) -> dict[str, Any]:
    """The table's row of one model; the last one of the role without a name."""
    wanted = role.replace(" ", "_")
    return [r for r in report["rows"] if r["role"] == wanted and name in (None, r["name"])][-1]


@dataclass(frozen=True)
class Pool:
    """Quality on test of one experiment's members under uniform weights and under those in use."""

    uniform: dict[str, float]
    used: dict[str, float]


def pool(config: str, overrides: list[str]) -> Pool:
    """Teachers and ensemble weights alone, with the library."""
    experiment, store = config_file.load(ROOT / config, overrides), Store(HOME / ".distillery")
    rows: Rows = preparation.read_source(experiment.data)
    data = preparation.prepare(experiment.data, rows, store)
    members: list[Handle] = []
    for names, member in groups.in_one_go(experiment.teachers, data):
        recipe = experiment.teachers.recipe_of(member)
        members += teacher_training.train_teachers(names, member, recipe, experiment.seed, data, store)

    def cached(split: str) -> list[Handle]:
        return [logit_cache.cache_logits(m, split, data, experiment.logits, store) for m in members]

    found = weight_selection.optimize_weights(members, cached("val_ensemble"), data, experiment.ensemble, store)
    on_test = np.stack([logit_cache.read_logits(h) for h in cached("test")])
    labels = dataset.Dataset(data).labels("test")
    uniform = Pooling(np.full(len(members), 1 / len(members)), "probs")
    quality = [metrics.quality(p.apply(on_test), labels) for p in (uniform, weight_selection.chosen(found))]
    return Pool(*quality)


def per_row(report: dict[str, Any], roles: list[str]) -> dict[str, list[np.ndarray]]:
    """Per-row correctness and NLL on test of the compared models of some roles."""
    labels = dataset.Dataset(Handle("data", "", report["store"]["data"], "")).labels("test")
    with np.load(Path(report["store"]["evaluation"]) / "test_logits.npz") as arrays:
        z = [arrays[role] for role in roles]
    return {"accuracy": [metrics.row_correct(v, labels) for v in z], "nll": [-metrics.row_nll(v, labels) for v in z]}


def recovery(reports: list[dict[str, Any]], baseline: str, figure: str) -> tuple[float, float, float]:
    """Ratio of mean gains over seeds, with an interval from a bootstrap over seeds and over rows within them."""
    held = [per_row(report, ["student", baseline.replace(" ", "_"), "ensemble"]) for report in reports]
    generator = np.random.default_rng(0)

    def ratio(parts: list[np.ndarray]) -> float:
        student, alone, whole = np.mean(parts, axis=0)
        return float((student - alone) / (whole - alone))

    draws = []
    for _ in range(1000):
        parts = []
        for which in generator.integers(0, len(held), len(held)):
            values = held[which][figure]
            rows = generator.integers(0, len(values[0]), len(values[0]))
            parts.append(np.array([v[rows].mean() for v in values]))
        draws.append(ratio(parts))
    centre = ratio([np.array([v.mean() for v in h[figure]]) for h in held])
    return centre, *(float(q) for q in np.quantile(draws, [0.025, 0.975]))


def tabular(results: Results, given: argparse.Namespace) -> None:
    """The task of configs/tabular.yaml with five data seeds: goals 1 to 3."""
    # Whichever rung validation prefers on a seed, the one that is compared has 3,490 parameters.
    shipped = "search.select=mlp-3490"
    reports = [pipeline("configs/tabular.yaml", f"tabular-{s}", [f"data.random_state={s}", shipped]) for s in SEEDS]
    untuned = [pool("configs/tabular.yaml", [f"data.random_state={s}", *UNTUNED]) for s in SEEDS]
    students = {c: [models_of(r, "student", c) for r in reports] for c in ("mlp-3490", "mlp-1234", "mlp-490")}
    whole = [models_of(r, "ensemble") for r in reports]
    results.model("tabular", "untuned ensemble (559,896 parameters)", [p.used for p in untuned])
    results.model("tabular", "mean teacher", [_mean_teacher(r) for r in reports])
    results.model("tabular", "simple average", [models_of(r, "ensemble", "uniform") for r in reports])
    results.model("tabular", "ensemble in use", whole)
    for role in ("plain baseline", "tuned baseline"):
        results.model("tabular", f"{role} 3,490", [models_of(r, role, "mlp-3490") for r in reports])
    for found in students.values():
        results.model("tabular", f"student {found[0]['params']:,}", found)
    _tabular_goals(results, reports, students, whole, untuned)


def _mean_teacher(report: dict[str, Any]) -> dict[str, float]:
    mine = [r for r in report["rows"] if r["role"] == "teacher"]
    return {k: float(np.mean([r[k] for r in mine])) for k in ("accuracy", "nll")}


def _tabular_goals(
    results: Results,
    reports: list[dict[str, Any]],
    students: dict[str, list[dict[str, Any]]],
    whole: list[dict[str, Any]],
    untuned: list[Pool],
) -> None:
    def mean(found: list[dict[str, Any]], figure: str = "accuracy") -> float:
        return float(np.mean([r[figure] for r in found]))

    ahead = 100 * (mean(students["mlp-3490"]) - mean(whole))
    results.goal("1", "3,490-parameter student minus tuned ensemble, points of accuracy", ahead, 0.0)
    for baseline in ("plain baseline", "tuned baseline"):
        for figure in ("accuracy", "nll"):
            centre, low, high = recovery(reports, baseline, figure)
            results.rows.append(
                {"dataset": "tabular", "method": f"gap recovery against the {baseline}", "figure": figure, "unit": "%"}
                | {"mean": 100 * centre, "low": 100 * low, "high": 100 * high}
            )
            if baseline == "tuned baseline" and figure == "accuracy":
                results.goal("1", "gap recovery in accuracy, %", 100 * centre, 150)
                results.goal("1", "its lower bound, %", 100 * low, 100)
            elif baseline == "tuned baseline":
                results.goal("2", "gap recovery in NLL, %", 100 * centre, 100)
    ahead = 100 * (mean(students["mlp-1234"]) - float(np.mean([p.used["accuracy"] for p in untuned])))
    results.goal("3", "1,234-parameter student minus untuned ensemble, points of accuracy", ahead, 0.0)


def pools(results: Results, given: argparse.Namespace) -> None:
    """Learned weights on pools of one kind and on one with weak members: goal 4."""
    untuned = [pool("configs/tabular.yaml", [f"data.random_state={s}", *UNTUNED]) for s in SEEDS]
    tuned = [pool("configs/tabular.yaml", [f"data.random_state={s}"]) for s in SEEDS]
    weak = [pool("benchmarks/configs/weak_members.yaml", [f"data.random_state={s}"]) for s in SEEDS]
    for name, found in (("tuned MLPs", tuned), ("untuned MLPs", untuned), ("weak members", weak)):
        gains = [100 * (p.used["accuracy"] - p.uniform["accuracy"]) for p in found]
        results.row(f"pool: {name}", "weights in use minus uniform", gains, "accuracy", "points")
        if name == "weak members":
            results.goal("4", f"gain of learned weights, {name}, points", float(np.mean(gains)), 0.8)
        else:
            results.goal("4", f"worst loss of learned weights, {name}, points", float(min(gains)), -0.05)


def adult(results: Results, given: argparse.Namespace) -> None:
    """The adult table with its official test file: goal 5."""
    train, test = (str(Path(p).resolve()) for p in given.adult)
    overrides = [f"data.path={train}", f"data.test_path={test}", "data.label=income", 'data.missing=["?"]']
    overrides += ["data.split.order=stratified"]
    report = pipeline("configs/table.yaml", "adult", [*overrides, "search.max_params=20000"])
    student = models_of(report, "student", report["search"]["chosen"])
    for role in ("ensemble", "plain baseline", "tuned baseline"):
        results.model("adult", role, [models_of(report, role)])
    results.model("adult", f"student {student['params']:,}", [student])
    results.row("adult", "student", [student["request_ms_p50"]], "whole request, p50", "ms")
    results.goal("5", "adult: accuracy of the student", student["accuracy"], 0.872)
    results.goal("5", "adult: NLL of the student", student["nll"], 0.284, least=False)
    results.goal("5", "adult: parameters", student["params"], 20_000, least=False)
    results.goal("5", "adult: p50 of a whole request, ms", student["request_ms_p50"], 0.2, least=False)


def digits_table(results: Results, given: argparse.Namespace) -> None:
    """scikit-learn's digits as a table, five splits: goal 5."""
    config = "benchmarks/configs/digits_table.yaml"
    reports = [pipeline(config, f"digits-table-{s}", [f"data.split.seed={s}"]) for s in SEEDS]
    for role in ("ensemble", "plain baseline", "tuned baseline", "student"):
        results.model("digits as a table", role, [models_of(r, role) for r in reports])
    reached = float(np.mean([models_of(r, "student")["accuracy"] for r in reports]))
    results.goal("5", "digits as a table: accuracy of the student", reached, 0.985)


def digits(results: Results, given: argparse.Namespace) -> None:
    """The demo, three seeds: goal 6. One network's luck outweighs the gain, so all seeds of a run count."""
    reports = [pipeline("configs/digits.yaml", f"digits-{s}", [f"seed={s}", f"data.split.seed={s}"]) for s in range(3)]
    results.model("digits", "ensemble", [models_of(r, "ensemble") for r in reports])
    mean: dict[str, dict[str, list[float]]] = {}
    for role in ("plain_baseline", "tuned_baseline", "student"):
        found = [
            {k: float(np.mean([seed[role][k] for seed in r["seeds"]])) for k in ("accuracy", "nll")} for r in reports
        ]
        results.model("digits", role.replace("_", " "), found)
        mean[role] = {k: [f[k] for f in found] for k in ("accuracy", "nll")}
    accuracy, nll = (np.subtract(mean["student"][k], mean["tuned_baseline"][k]) for k in ("accuracy", "nll"))
    results.goal("6", "digits: accuracy gain over the tuned baseline, points", 100 * float(accuracy.mean()), 0.0)
    results.goal("6", "digits: NLL gain over the tuned baseline", -float(nll.mean()), 0.0)


def images(results: Results, given: argparse.Namespace) -> None:
    """CIFAR-10 as a folder with its official test images: goal 6."""
    overrides = [f"data.path={Path(given.images).resolve()}", "ship=student"]
    report = pipeline("benchmarks/configs/cifar.yaml", "cifar", overrides)
    chosen = report["search"]["chosen"]
    for role in ("ensemble", "plain baseline", "tuned baseline", "student"):
        results.model("cifar", role, [models_of(report, role, None if role == "ensemble" else chosen)])
    # The same setting taught on the images as they are: one view, whose cached targets fit it exactly.
    single = ["student.views={count: 1}", "student.recipe.augment={}", "search.trials=1", "search.seeds=1"]
    one = pipeline("benchmarks/configs/cifar.yaml", "cifar-one-view", [*overrides, *single])
    results.model("cifar", "student, one fixed view", [models_of(one, "student", chosen)])
    gain = report["gains"]["tuned_baseline"]
    results.goal("6", "cifar: lower bound of the NLL gain over the tuned baseline", gain["nll"]["low"], 0.0)
    results.goal("6", "cifar: lower bound of the accuracy gain, points", 100 * gain["accuracy"]["low"], 0.0)
    ahead = models_of(one, "student", chosen)["nll"] - models_of(report, "student", chosen)["nll"]
    results.goal("6", "cifar: NLL gain of views over one fixed view", ahead, 0.0)


PARTS: dict[str, Callable[[Results, argparse.Namespace], None]] = {
    "tabular": tabular,
    "pools": pools,
    "digits-table": digits_table,
    "digits": digits,
    "adult": adult,
    "images": images,
}


def main() -> None:
    """Runs the parts whose data are there, and merges them with those that ran before."""
    parser = argparse.ArgumentParser(description="quality benchmark")
    parser.add_argument("--adult", nargs=2, metavar=("TRAIN", "TEST"), help="the two CSV files of adult, with a header")
    parser.add_argument("--images", help="CIFAR-10 as train/<class>/ and test/<class>/")
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "quality.json")
    given = parser.parse_args()
    parts = json.loads(given.out.read_text())["parts"] if given.out.exists() else {}
    for name in given.only:
        if name in ("adult", "images") and getattr(given, name) is None:
            console.print(f"{name}: left out, needs --{name}")
            continue
        results = Results()
        PARTS[name](results, given)
        parts[name] = {"rows": results.rows, "goals": results.goals}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        merged = {k: [x for part in parts.values() for x in part[k]] for k in ("rows", "goals")}
        write_json(given.out, {**merged, "parts": parts})
    show(json.loads(given.out.read_text()), console)


if __name__ == "__main__":
    main()
