"""Which knobs of a study mattered: what is compared, and whether there is enough of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from distillery.config.search_space import Knobs
from distillery.stages.search.study import objective, space_of, variance_shares

FEWEST, PER_KNOB = 20, 5  # with fewer trials, the seed of the forest decides which knob seems to matter

Judged = list[tuple[dict[str, Any], float]]


def importances(records: list[dict[str, Any]], knobs: Knobs, quality: str) -> dict[str, Any]:
    """`shares` of variance that each knob explains alone, by `method`, or a `note`; `trials`: how many, `of`: of what.

    Compared is the quality of the trials that came to the end, or, where halving left too few of those, the NLL at the
    first rung, which all came to. Values are divided by their capacity's median, as for the proposals: how large a
    student is would explain nearly everything. An option that only one of several losses has is left out, since not
    all trials have it.

    Args:
        records: Of all trials.
        knobs: What was searched.
        quality: ``nll`` or ``error``.
    """
    several = len(getattr(knobs, "losses", ())) > 1
    space = {k: v for k, v in space_of(knobs).items() if not (several and "." in k)}
    least = max(FEWEST, PER_KNOB * len(space))
    ended: Judged = [(r, objective(r, quality)) for r in records if r["state"] == "complete"]
    epoch, at_rung = _first_rung(records)
    judged, what = (at_rung, f"nll after {epoch} epochs") if len(ended) < least <= len(at_rung) else (ended, quality)
    found = {"method": "fANOVA", "of": what, "trials": len(judged), "shares": {}, "note": ""}
    if not space:
        return {**found, "note": "nothing was searched"}
    if len(judged) < least:
        return {**found, "note": f"expected at least {least} finished trials for {len(space)} knobs, got {len(judged)}"}
    values = _by_median(judged)
    if len(set(values)) == 1:
        return {**found, "note": "all trials are alike"}
    trials = [({k: r["proposal"][k] for k in space}, value) for (r, _), value in zip(judged, values, strict=True)]
    return {**found, "shares": variance_shares(trials, space)}


def _first_rung(records: list[dict[str, Any]]) -> tuple[int, Judged]:
    """(its epoch, the trials that came to it with their NLL there)."""
    epoch = min((int(e) for r in records for e in r["curve"]), default=0)
    return epoch, [(r, r["curve"][str(epoch)]) for r in records if str(epoch) in r["curve"]]


def _by_median(judged: Judged) -> list[float]:
    values: dict[str, list[float]] = {}
    for record, value in judged:
        values.setdefault(record["capacity"], []).append(value)
    return [value / max(float(np.median(values[record["capacity"]])), 1e-12) for record, value in judged]
