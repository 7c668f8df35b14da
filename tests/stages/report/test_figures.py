"""Pictures: they show the numbers they are given, and can be drawn."""

from __future__ import annotations

import importlib
import io
import warnings
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from tiny_chain import FinishedChain
from trials import a_trial

from distillery.ops import metrics
from distillery.stages.report import figures
from distillery.stages.search.record import TrialState


def drawn(figure: Figure) -> Any:
    """The first axes of a figure that could be drawn as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(b"\x89PNG")
    return figure.axes[0]


def test_classes_are_no_formulas() -> None:
    """golden: two dollar signs in a name begin none, and letters that the font lacks are drawn without a warning."""
    names = ["$\\frac$", "$x$", "日本"]
    with warnings.catch_warnings(record=True) as told:
        importlib.reload(figures)  # pytest has put its own filters in the place of those that importing it set
        axes = drawn(figures.confusion_figure(np.eye(3, dtype=int), names, "x on test"))
    assert [label.get_text().replace("\\$", "$") for label in axes.get_xticklabels()] == names and not told


def legend(axes: Any) -> list[str]:
    """Texts of the legend."""
    return [text.get_text() for text in axes.get_legend().get_texts()]


def points(axes: Any) -> list[list[float]]:
    """All scattered points, sorted."""
    return sorted(point for c in axes.collections for point in np.asarray(c.get_offsets()).tolist())


def test_the_front_has_every_model_that_can_be_placed(finished: FinishedChain) -> None:
    """reference: one point per row with latency and parameters; each role has its colour; names are written."""
    rows = finished.evaluated.rows
    unplaced = rows[0].model_copy(update={"name": "given", "params": None, "latency_ms_p50": None})
    axes = drawn(figures.front_figure([*rows, unplaced]))
    np.testing.assert_allclose(points(axes), sorted([r.latency_ms_p50, 100 * r.accuracy] for r in rows))
    assert legend(axes) == ["ensemble", "teacher", "plain baseline", "tuned baseline", "student"]
    assert {t.get_text().split(" (")[0] for t in axes.texts} == {r.name for r in rows}
    assert axes.get_xscale() == "log"


def test_weights_are_bars() -> None:
    """reference: a bar of each member's weight, beside the uniform one."""
    axes = drawn(figures.weights_figure({"a": 0.7, "b": 0.3, "c": 0.0}, "a title"))
    assert [bar.get_width() for bar in axes.patches] == [0.7, 0.3, 0.0]
    assert axes.lines[0].get_xdata() == pytest.approx([1 / 3, 1 / 3]) and axes.get_title() == "a title"


def test_curves_go_by_epoch() -> None:
    """reference: a line per model over its own epochs; models without the figure are left out."""
    histories = {"a": [{"x": 3.0}, {"x": 2.0}, {"x": 1.0}], "b": [{"x": 5.0}], "c": [{"y": 1.0}]}
    axes = drawn(figures.curves_figure(histories, "x"))
    lines = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines}
    assert lines == {"a": ([1, 2, 3], [3, 2, 1]), "b": ([1], [5])}


def test_reliability_is_that_of_the_metrics(finished: FinishedChain) -> None:
    """reference: the bins of `metrics.reliability`, beside the diagonal."""
    labels = finished.dataset.labels("test")
    with np.load(finished.evaluation.file("test_logits.npz")) as arrays:
        logits = {name: arrays[name] for name in arrays.files[:2]}
    axes = drawn(figures.reliability_figure(logits, labels))
    diagonal, *lines = axes.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    for line, values in zip(lines, logits.values(), strict=True):
        confidence, correct, _ = metrics.reliability(values, labels)
        np.testing.assert_allclose(line.get_xydata(), np.stack([confidence, correct], axis=1))


def test_the_confusion_shows_counts_and_shares() -> None:
    """reference: colours are shares of the true class, also of one without rows; counts are written where not zero."""
    counts = np.array([[8, 2, 0], [0, 0, 0], [1, 0, 3]])
    axes = drawn(figures.confusion_figure(counts, ["a", "b", "c"], "a title"))
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.8, 0.2, 0], [0, 0, 0], [0.25, 0, 0.75]])
    written = {tuple(map(int, t.get_position()[::-1])): int(t.get_text()) for t in axes.texts}
    assert written == {(r, c): n for (r, c), n in np.ndenumerate(counts) if n}
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b", "c"]
    assert len(drawn(figures.confusion_figure(np.eye(40, dtype=int), list("x" * 40), "many")).texts) == 0


def test_trials_are_shown_by_knob(finished: FinishedChain) -> None:
    """reference: NLL against each searched knob, a cross for a stopped trial; failed ones are left out."""
    trials = finished.searched.trials
    failed = trials[0].model_copy(update={"state": TrialState.FAILED, "nll": None})
    stopped = trials[0].model_copy(update={"state": TrialState.STOPPED, "nll": 9.0})
    figure = figures.search_figure([*trials, failed, stopped])
    drawn(figure)
    assert legend(figure.axes[-1]) == ["small", "large"]
    assert [axes.get_xlabel() for axes in figure.axes] == list(trials[0].proposal)
    for axes in figure.axes:
        expected = sorted([t.proposal[axes.get_xlabel()], t.nll] for t in [*trials, stopped])
        np.testing.assert_allclose(points(axes), expected)


def test_without_knobs_trials_are_shown_by_number() -> None:
    """contract: also where nothing was searched."""
    trials = [a_trial("c", number=n, nll=1.0 - n) for n in range(3)]
    axes = drawn(figures.search_figure(trials))
    assert points(axes) == [[0.0, 1.0], [1.0, 0.0], [2.0, -1.0]] and axes.get_xlabel() == "number"
