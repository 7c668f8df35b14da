"""A study, trial by trial."""

from __future__ import annotations

from typing import Any

from distillery.stages.report.page import svg
from distillery.stages.report.page.words import fixed, setting

NAMES = {"nll": "NLL on val_search", "error": "error on val_search"}
TONES = 6  # colours of capacities, in turn
MANY = 100  # trials; with more, marks are smaller


def history_chart(study: dict[str, Any]) -> str:
    """The objective of every trial by its number, and the best so far of those that came to the end.

    A stopped trial stands where it was stopped, a cross; one that failed has no figure and stands at the upper edge.
    What lies above the finished trials by more than their own spread is drawn at the edge too, as a triangle.
    """
    trials, quality = study["trials"], study["objectives"][0]
    ended = {t["number"]: v for t in trials if t["state"] == "complete" and (v := value(t, quality)) is not None}
    edge, lowest = _edge(study), min(v for t in trials if (v := value(t, quality)) is not None)
    x = svg.Scale(-1, len(trials), svg.LEFT, svg.WIDTH - svg.RIGHT, whole=True)
    y = svg.spanning([lowest, edge], svg.HEIGHT - svg.BOTTOM, svg.TOP)
    tones = tone_of(trials)
    size = svg.MARK if len(trials) <= MANY else svg.MARK / 2
    parts = [svg.axes(x, y, "trial", NAMES[quality]), _best_so_far(ended, len(trials), x, y)]
    for place, trial in enumerate(trials):
        found = value(trial, quality)
        at = y.stop if found is None else y(min(found, edge))
        shape = _shape(trial["state"], above=found is not None and found > edge)
        kind = f"tone-{tones[trial['capacity']]} {trial['state']}"
        lines = told(trial, quality)
        parts.append(svg.point(shape, x(trial["number"]), at, lines, kind, first=place == 0, size=size))
    return svg.picture(f"{NAMES[quality]} of {len(trials)} trials", *parts)


def value(trial: dict[str, Any], quality: str) -> float | None:
    """The objective of a trial, at its end or where it was stopped; None if it failed."""
    if trial["state"] == "fail":
        return None
    return float(trial["nll"] if quality == "nll" else 1 - trial["accuracy"])


def tone_of(trials: list[dict[str, Any]]) -> dict[str, int]:
    """A number for the colour of each capacity."""
    return {name: place % TONES for place, name in enumerate(dict.fromkeys(t["capacity"] for t in trials))}


def told(trial: dict[str, Any], quality: str) -> list[str]:
    """What a trial's point tells."""
    found = value(trial, quality)
    stopped = f" after {max(map(int, trial['curve']))} epochs" if trial["state"] == "stopped" else ""
    figures = {"NLL": trial.get("nll"), "accuracy": trial.get("accuracy")} if found is not None else {}
    lines = [f"trial {trial['number']}: {trial['capacity']}", f"state: {trial['state']}{stopped}"]
    lines += [f"{k}: {fixed(v)}" for k, v in figures.items()]
    lines += [f"{k}: {v}" for k, v in setting(trial["setting"]).items()]
    return lines + ([f"reason: {trial['reason']}"] if "reason" in trial else [])


def marks(study: dict[str, Any]) -> list[dict[str, str]]:
    """The legend: capacities, and what the marks mean."""
    trials, quality, edge = study["trials"], study["objectives"][0], _edge(study)
    tones = [{"class": f"tone-{n}", "mark": svg.mark("circle", 9, 9, 6), "name": c} for c, n in tone_of(trials).items()]
    states = {"stopped": "stopped by halving", "fail": "failed"}
    found = [k for k in states if any(t["state"] == k for t in trials)]
    shown = [{"class": k, "mark": svg.mark(_shape(k), 9, 9, 6), "name": states[k]} for k in found]
    above = any((value(t, quality) or 0) > edge for t in trials)
    return tones + shown + [{"class": "", "mark": svg.mark("up", 9, 9, 6), "name": "above the picture"}] * above


def knobs(trials: list[dict[str, Any]]) -> list[str]:
    """Names of all settings that any trial has."""
    return list(dict.fromkeys(k for t in trials for k in setting(t["setting"])))


def lines(study: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials as rows of a table."""
    names, best = knobs(study["trials"]), {numbers[0] for numbers in study["ranked"].values() if numbers}
    return [
        {**t, "cells": [setting(t["setting"]).get(k, "") for k in names], "best": t["number"] in best}
        for t in study["trials"]
    ]


def _edge(study: dict[str, Any]) -> float:
    """The largest objective that is drawn in its place: the worst finished trial's and as much again as they differ."""
    quality, trials = study["objectives"][0], study["trials"]
    seen = [v for t in trials if (v := value(t, quality)) is not None]
    ended = [v for t in trials if t["state"] == "complete" and (v := value(t, quality)) is not None]
    return min(max(seen), max(ended) + max(max(ended) - min(ended), 0.1 * max(seen)))


def _shape(state: str, above: bool = False) -> str:
    if above:
        return "up"
    return {"complete": "circle", "stopped": "cross", "fail": "down"}[state]


def _best_so_far(ended: dict[int, float], trials: int, x: svg.Scale, y: svg.Scale) -> str:
    corners: list[tuple[float, float]] = []
    for at in sorted(ended):
        if corners and y(ended[at]) <= corners[-1][1]:
            continue
        if corners:
            corners.append((x(at), corners[-1][1]))
        corners.append((x(at), y(ended[at])))
    return svg.path([*corners, (x(trials - 0.5), corners[-1][1])], "best-line")
