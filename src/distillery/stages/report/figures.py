"""Pictures of a run. Each function takes plain numbers and gives a matplotlib figure."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillery.ops.metrics import reliability
from distillery.stages.evaluation.record import ModelRow
from distillery.stages.roles import Role
from distillery.stages.search.record import Trial, TrialState

matplotlib.use("Agg")
# A class may be called by signs that the font does not have: a box stands for each, and nothing needs to be said.
warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)

COLOURS = {
    Role.ENSEMBLE: "#222222",
    Role.TEACHER: "#8a8a8a",
    Role.PLAIN: "#d98c3f",
    Role.TUNED: "#b5533c",
    Role.STUDENT: "#2f7ab8",
}


def front_figure(rows: Sequence[ModelRow]) -> Figure:
    """Test accuracy against latency at batch 1 (log scale); the area of a bubble grows with the parameter count."""
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    points = [_bubble(row) for row in rows if row.latency_ms_p50 and row.params]
    for role, colour in COLOURS.items():
        own = [point for point in points if point.row.role is role]
        if own:
            axes.scatter(
                [point.latency_ms for point in own],
                [point.percent for point in own],
                s=[40 + 60 * max(0.0, np.log10(point.params) - 2) for point in own],
                color=colour,
                alpha=0.75,
                edgecolors="white",
                label=role.words,
            )
    _name_bubbles(axes, points)
    axes.margins(x=0.1, y=0.12)
    axes.set(xscale="log", xlabel="latency at batch 1, p50 (ms)", ylabel="test accuracy (%)")
    axes.set_title("Accuracy against latency; bubbles grow with the parameter count")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


@dataclass(frozen=True)
class Bubble:
    """A model whose latency and parameter count are known."""

    row: ModelRow
    latency_ms: float
    percent: float
    params: int


def _bubble(row: ModelRow) -> Bubble:
    assert row.latency_ms_p50 is not None
    assert row.params is not None
    return Bubble(row, row.latency_ms_p50, 100 * row.accuracy, row.params)


def _name_bubbles(axes: Axes, points: Sequence[Bubble]) -> None:
    """Writes names beside ensembles and students, and beside teachers where they are few."""
    few = sum(point.row.role is Role.TEACHER for point in points) <= 4
    named = {Role.ENSEMBLE, Role.STUDENT, *([Role.TEACHER] if few else [])}
    latencies = [point.latency_ms for point in points] or [1.0]
    middle = np.sqrt(max(latencies) * min(latencies))
    for number, point in enumerate([point for point in points if point.row.role in named]):
        # Names grow towards the middle, and those of ensembles stand above and below in turn.
        left = point.latency_ms > middle
        below = point.row.role is Role.ENSEMBLE and number % 2
        axes.annotate(
            f"{point.row.name} ({_count(point.params)})",
            (point.latency_ms, point.percent),
            xytext=(-8 if left else 8, -14 if below else 6),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8,
        )


def weights_figure(members: Mapping[str, float], title: str) -> Figure:
    """A bar per member with its ensemble weight."""
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(members)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(list(members), list(members.values()), color=COLOURS[Role.STUDENT])
    axes.axvline(1 / len(members), color=COLOURS[Role.ENSEMBLE], linestyle="--", linewidth=1, label="uniform")
    axes.invert_yaxis()
    axes.set(xlabel="weight", title=title)
    axes.legend()
    return figure


def curves_figure(histories: Mapping[str, Sequence[Mapping[str, float]]], key: str = "train_loss") -> Figure:
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


def reliability_figure(logits: Mapping[str, np.ndarray], labels: np.ndarray) -> Figure:
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


def search_figure(trials: Sequence[Trial]) -> Figure:
    """Validation NLL of every finished trial against each searched knob, by capacity; crosses were stopped early."""
    shown = [trial for trial in trials if trial.state is not TrialState.FAILED]
    knobs = list(dict.fromkeys(knob for trial in shown for knob in trial.proposal)) or ["number"]
    columns = min(4, len(knobs))
    lines = -(-len(knobs) // columns)
    figure = Figure(figsize=(1 + 3.6 * columns, 0.5 + 3.2 * lines), layout="constrained")
    for position, knob in enumerate(knobs):
        axes = figure.add_subplot(lines, columns, position + 1)
        for index, capacity in enumerate(dict.fromkeys(trial.capacity for trial in shown)):
            for state, marker in ((TrialState.COMPLETE, "o"), (TrialState.STOPPED, "x")):
                own = [trial for trial in shown if trial.capacity == capacity and trial.state is state]
                if own:
                    axes.scatter(
                        [trial.proposal.get(knob, trial.number) for trial in own],
                        [trial.objective("nll") for trial in own],
                        label=capacity if state is TrialState.COMPLETE else None,
                        marker=marker,
                        color=f"C{index}",
                        alpha=0.8,
                    )
        axes.set(xlabel=knob, ylabel="val_search NLL")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _count(number: int) -> str:
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{letter}"
    return str(number)
