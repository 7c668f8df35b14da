"""Which weightings and pools are tried for an ensemble: those with enough rows that do not take too long."""

from __future__ import annotations

from distillery.config.experiment import Ensemble, Weighting
from distillery.errors import InputError
from distillery.stages.ensemble.crossfit import Candidate
from distillery.weightings import WEIGHTINGS

DEFAULT = ("uniform", "convex", "greedy", "stacking")
MOST_SECONDS = 300  # about as long as anything may take, by its estimate, that the config does not ask for by name


def candidates(
    config: Ensemble, members: int, classes: int, rows: int, *, folds: bool = False
) -> tuple[list[Candidate], dict[str, str]]:
    """(what is tried, why any other weighting is left out).

    With folds each answer is that of one model, and later the mean of all folds' models answers, which is less sure: a
    linear map of such answers would be one for other answers than it gets.

    Raises:
        InputError: A weighting that the config names needs more rows. One that is only tried by default is left out, as
            is one that would take more than `MOST_SECONDS`.
    """
    named = config.weightings is not None
    found: list[Candidate] = []
    left_out: dict[str, str] = {}
    for place, weighting in enumerate(config.weightings or [Weighting(name=name) for name in DEFAULT]):
        traits = WEIGHTINGS.traits(weighting.name)
        least = traits["min_rows"](members, classes)
        if rows < least and named:
            raise InputError(
                f"ensemble.weightings.{place} ({weighting.name}): expected at least {least} rows in val_ensemble for "
                f"{members} members and {classes} classes, got {rows}; a larger data.split.val_ensemble or another "
                "weighting would do"
            )
        if rows < least:
            left_out[weighting.name] = f"expected at least {least} rows in val_ensemble, got {rows}"
            continue
        stacks = traits.get("stacks", False)
        if stacks and folds:
            if named:
                raise InputError(
                    f"ensemble.weightings.{place} ({weighting.name}): expected weights, got a linear map, which does "
                    "not hold for the mean of the folds' models; set data.split.folds: null or name another weighting"
                )
            left_out[weighting.name] = "a linear map does not hold for the mean of the folds' models"
            continue
        pools = ("logits",) if stacks else config.pools  # a linear map is on log-probabilities, whatever the pools
        if stacks and not named and "logits" not in config.pools:
            continue
        for pool in pools:
            candidate = Candidate(weighting, pool)
            seconds = candidate.seconds(members, classes, rows, config.folds)
            if named or not takes_long(seconds):
                found.append(candidate)
            else:
                left_out[weighting.name if stacks else candidate.name] = too_long(
                    seconds, "name it in ensemble.weightings to have it tried"
                )
    return found, left_out


def takes_long(seconds: float) -> bool:
    """Whether something is only done if the config asks for it."""
    return seconds > MOST_SECONDS


def too_long(seconds: float, remedy: str) -> str:
    """Why something was left out, and what to do to have it."""
    return f"would take about {duration(seconds)}; {remedy}"


def duration(seconds: float) -> str:
    """A number of minutes, hours or days."""
    minutes = max(1, round(seconds / 60))
    if minutes < 120:
        return "a minute" if minutes == 1 else f"{minutes} minutes"
    hours = round(seconds / 3600)
    return f"{hours} hours" if hours < 48 else f"{round(hours / 24)} days"
