"""A study, trial by trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillery.stages.report.page import svg
from distillery.stages.report.page.words import fixed, setting
from distillery.stages.report.record import Study
from distillery.stages.search.record import Trial, TrialState

NAMES = {"nll": "NLL on val_search", "error": "error on val_search"}
TONES = 6  # colours of capacities, in turn
MANY = 100  # trials; with more, marks are smaller


def history_chart(study: Study) -> str:
    """The objective of every trial by its number, and the best so far of those that came to the end.

    A stopped trial stands where it was stopped, a cross; one that failed has no figure and stands at the upper edge.
    What lies above the finished trials by more than their own spread is drawn at the edge too, as a triangle.
    """
    trials = study.trials
    quality = study.quality
    ended = {trial.number: trial.objective(quality) for trial in trials if trial.state is TrialState.COMPLETE}
    edge = _edge(study)
    lowest = min(_values(study))
    x = svg.Scale(-1, len(trials), svg.LEFT, svg.WIDTH - svg.RIGHT, whole=True)
    y = svg.spanning([lowest, edge], svg.HEIGHT - svg.BOTTOM, svg.TOP)
    tones = tone_of(trials)
    size = svg.MARK if len(trials) <= MANY else svg.MARK / 2
    parts = [svg.axes(x, y, "trial", NAMES[quality]), _best_so_far(ended, len(trials), x, y)]
    for index, trial in enumerate(trials):
        value = trial.quality(quality)
        height = y.stop if value is None else y(min(value, edge))
        shape = _shape(trial.state, above=value is not None and value > edge)
        kind = f"tone-{tones[trial.capacity]} {trial.state}"
        lines = description(trial)
        parts.append(svg.point(shape, x(trial.number), height, lines, kind, first=index == 0, size=size))
    return svg.picture(f"{NAMES[quality]} of {len(trials)} trials", *parts)


def tone_of(trials: Sequence[Trial]) -> dict[str, int]:
    """A number for the colour of each capacity."""
    names = dict.fromkeys(trial.capacity for trial in trials)
    return {name: number % TONES for number, name in enumerate(names)}


def description(trial: Trial) -> list[str]:
    """Lines that describe a trial's point."""
    stopped = f" after {max(trial.curve)} epochs" if trial.state is TrialState.STOPPED else ""
    lines = [f"trial {trial.number}: {trial.capacity}", f"state: {trial.state}{stopped}"]
    if trial.state is not TrialState.FAILED:
        lines += [f"NLL: {fixed(trial.nll)}", f"accuracy: {fixed(trial.accuracy)}"]
    lines += [f"{knob}: {value}" for knob, value in setting(trial.setting).items()]
    if trial.reason is not None:
        lines.append(f"reason: {trial.reason}")
    return lines


def marks(study: Study) -> list[dict[str, str]]:
    """The legend: capacities, and what the marks mean."""
    legend = []
    for name, tone in tone_of(study.trials).items():
        legend.append({"class": f"tone-{tone}", "mark": svg.mark("circle", 9, 9, 6), "name": name})
    for state, words in ((TrialState.STOPPED, "stopped by halving"), (TrialState.FAILED, "failed")):
        if any(trial.state is state for trial in study.trials):
            legend.append({"class": state.value, "mark": svg.mark(_shape(state), 9, 9, 6), "name": words})
    if max(_values(study)) > _edge(study):
        legend.append({"class": "", "mark": svg.mark("up", 9, 9, 6), "name": "above the picture"})
    return legend


def knobs(trials: Sequence[Trial]) -> list[str]:
    """Names of all settings that any trial has."""
    names: dict[str, None] = {}
    for trial in trials:
        names |= dict.fromkeys(setting(trial.setting))
    return list(names)


@dataclass(frozen=True)
class TrialLine:
    """A trial as a row of a table: its settings, and whether it is the best one of its capacity."""

    trial: Trial
    cells: list[str]
    best: bool


def lines(study: Study) -> list[TrialLine]:
    """The trials as rows of a table."""
    names = knobs(study.trials)
    best = {numbers[0] for numbers in study.ranked.values() if numbers}
    table = []
    for trial in study.trials:
        values = setting(trial.setting)
        cells = [values.get(name, "") for name in names]
        table.append(TrialLine(trial, cells, trial.number in best))
    return table


def _values(study: Study) -> list[float]:
    """The objective of every trial that did not fail, at its end or where it was stopped."""
    values = [trial.quality(study.quality) for trial in study.trials]
    return [value for value in values if value is not None]


def _edge(study: Study) -> float:
    """The largest objective that is drawn in its place: the worst finished trial's and as much again as they differ."""
    worst = max(_values(study))
    ended = [t.objective(study.quality) for t in study.trials if t.state is TrialState.COMPLETE]
    spread = max(max(ended) - min(ended), 0.1 * worst)
    return min(worst, max(ended) + spread)


def _shape(state: TrialState, above: bool = False) -> str:
    if above:
        return "up"
    return {TrialState.COMPLETE: "circle", TrialState.STOPPED: "cross", TrialState.FAILED: "down"}[state]


def _best_so_far(ended: dict[int, float], trials: int, x: svg.Scale, y: svg.Scale) -> str:
    corners: list[tuple[float, float]] = []
    for at in sorted(ended):
        if corners and y(ended[at]) <= corners[-1][1]:
            continue
        if corners:
            corners.append((x(at), corners[-1][1]))
        corners.append((x(at), y(ended[at])))
    return svg.path([*corners, (x(trials - 0.5), corners[-1][1])], "best-line")
