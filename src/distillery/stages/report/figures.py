"""Pictures of a run. Each function takes plain numbers and gives a matplotlib figure."""

from __future__ import annotations

import warnings
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from distillery.ops.metrics import reliability

matplotlib.use("Agg")
# A class may be called by signs that the font does not have: a box stands for each, and nothing needs to be said.
warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)

COLOURS = {
    "teacher": "#8a8a8a",
    "ensemble": "#222222",
    "plain baseline": "#d98c3f",
    "tuned baseline": "#b5533c",
    "student": "#2f7ab8",
    "trial": "#a9c9e2",
}


def front_figure(rows: list[dict[str, Any]]) -> Figure:
    """Test accuracy against latency at batch 1 (log scale); the area of a bubble grows with the parameter count."""
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    shown = [r for r in rows if r["latency_ms_p50"] and r["params"]]
    for role in ("ensemble", "teacher", "plain baseline", "tuned baseline", "student"):
        mine = [r for r in shown if r["role"] == role]
        if mine:
            area = [40 + 60 * max(0.0, np.log10(r["params"]) - 2) for r in mine]
            axes.scatter(
                [r["latency_ms_p50"] for r in mine],
                [100 * r["accuracy"] for r in mine],
                s=area,
                color=COLOURS[role],
                alpha=0.75,
                edgecolors="white",
                label=role,
            )
    few = sum(r["role"] == "teacher" for r in shown) <= 4
    named = [r for r in shown if r["role"] in ("ensemble", "student") or (r["role"] == "teacher" and few)]
    middle = np.sqrt(max(r["latency_ms_p50"] for r in shown) * min(r["latency_ms_p50"] for r in shown)) if shown else 1
    for number, row in enumerate(named):
        left = row["latency_ms_p50"] > middle  # names grow towards the middle, and ensembles alternate above and below
        offset = (-8 if left else 8, -14 if row["role"] == "ensemble" and number % 2 else 6)
        axes.annotate(
            f"{row['name']} ({_count(row['params'])})",
            (row["latency_ms_p50"], 100 * row["accuracy"]),
            xytext=offset,
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8,
        )
    axes.margins(x=0.1, y=0.12)
    axes.set(xscale="log", xlabel="latency at batch 1, p50 (ms)", ylabel="test accuracy (%)")
    axes.set_title("Accuracy against latency; bubbles grow with the parameter count")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def weights_figure(members: dict[str, float], title: str) -> Figure:
    """A bar per member with its ensemble weight."""
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(members)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(list(members), list(members.values()), color=COLOURS["student"])
    axes.axvline(1 / len(members), color=COLOURS["ensemble"], linestyle="--", linewidth=1, label="uniform")
    axes.invert_yaxis()
    axes.set(xlabel="weight", title=title)
    axes.legend()
    return figure


def curves_figure(histories: dict[str, list[dict[str, float]]], key: str = "train_loss") -> Figure:
    """Training curves: one line per model over its epochs."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, history in histories.items():
        points = [(i + 1, record[key]) for i, record in enumerate(history) if key in record]
        if points:
            axes.plot(*zip(*points, strict=True), label=name)
    axes.set(xlabel="epoch", ylabel=key.replace("_", " ").replace("/", " "), title=f"{key} by epoch")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def reliability_figure(logits: dict[str, np.ndarray], labels: np.ndarray) -> Figure:
    """Accuracy against confidence in bins of equal mass; on the diagonal a model is calibrated."""
    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    for name, values in logits.items():
        confidence, correct, _ = reliability(values, labels)
        axes.plot(confidence, correct, marker="o", markersize=4, label=name)
    axes.set(xlabel="mean confidence", ylabel="accuracy", title="Reliability on test", aspect="equal")
    lowest = 1 / next(iter(logits.values())).shape[1]
    axes.set(xlim=(lowest * 0.9, 1.02), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def confusion_figure(counts: np.ndarray, classes: list[str], title: str) -> Figure:
    """Share of each true class (row) that is taken for each class (column)."""
    side = min(14.0, 3 + 0.45 * len(classes))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 30:
        names = [name.replace("$", r"\$") for name in classes]  # between two of these matplotlib expects a formula
        axes.set_xticks(range(len(classes)), names, rotation=90)
        axes.set_yticks(range(len(classes)), names)
    if len(classes) <= 12:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def search_figure(trials: list[dict[str, Any]]) -> Figure:
    """Validation NLL of every finished trial against each searched knob, by capacity; crosses were stopped early."""
    shown = [t for t in trials if t["state"] != "fail"]
    knobs = list(dict.fromkeys(k for t in shown for k in t["proposal"])) or ["number"]
    columns = min(4, len(knobs))
    lines = -(-len(knobs) // columns)
    figure = Figure(figsize=(1 + 3.6 * columns, 0.5 + 3.2 * lines), layout="constrained")
    for position, knob in enumerate(knobs):
        axes = figure.add_subplot(lines, columns, position + 1)
        for index, capacity in enumerate(dict.fromkeys(t["capacity"] for t in shown)):
            for state, marker in (("complete", "o"), ("stopped", "x")):
                mine = [t for t in shown if t["capacity"] == capacity and t["state"] == state]
                points = [(t["proposal"].get(knob, t["number"]), t["nll"]) for t in mine]
                if points:
                    label = capacity if state == "complete" else None
                    axes.scatter(*zip(*points, strict=True), label=label, marker=marker, color=f"C{index}", alpha=0.8)
        axes.set(xlabel=knob, ylabel="val_search NLL")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _count(number: int) -> str:
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{letter}"
    return str(number)
