"""Promotion gates: what a model must show before it may become the champion, as a list in the config or by a word."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from distillery.config.section import Section
from distillery.registry import closest

FIGURES = {
    "accuracy_gain_over_ensemble": "accuracy minus the ensemble's",
    "nll_gain_over_ensemble": "the ensemble's NLL minus its own",
    "accuracy_gain_over_rival": "accuracy minus that of the best other training of the same network",
    "nll_gain_over_rival": "the NLL of the best other training of the same network minus its own",
    "accuracy_gain_over_tuned_baseline": "accuracy minus the tuned baseline's",
    "nll_gain_over_tuned_baseline": "the tuned baseline's NLL minus its own",
    "accuracy_gain_over_plain_baseline": "accuracy minus the plain baseline's",
    "nll_gain_over_plain_baseline": "the plain baseline's NLL minus its own",
    "recovery": "the student's gap recovery against the tuned baseline in NLL, or in accuracy where NLL has no gap",
    "accuracy_recovery": "the student's gap recovery in accuracy against the tuned baseline",
    "nll_recovery": "the student's gap recovery in NLL against the tuned baseline",
    "accuracy": "share of test rows with the right top class",
    "nll": "mean negative log-likelihood on test",
    "ece": "expected calibration error",
    "ece_over_ensemble": "expected calibration error minus the ensemble's",
    "agreement": "share of rows with the ensemble's top class",
    "worst_class_drop": "largest drop of a class's recall below the ensemble's",
    "worst_group_drop": "largest drop of a declared group's accuracy below the ensemble's",
    "robustness_drop": "largest loss of accuracy under a disturbance beyond the ensemble's own loss",
    "latency_ms_p50": "from an encoded row, as for every model of the report",
    "latency_ms_p95": "from an encoded row, as for every model of the report",
    "request_ms_p50": "of a whole request to the exported model, preprocessing and class names included",
    "request_ms_p95": "of a whole request to the exported model, preprocessing and class names included",
    "params": "parameters",
    "size_mb": "size of the exported model in 10^6 bytes",
    "parity": "largest difference of a probability between the exported model and the network",
}
"""What a gate may judge; each of the model that is to be shipped, unless it says otherwise."""


class Gate(Section):
    """One figure of the test split and its limit.

    `bound` takes an end of the figure's confidence interval in place of the figure. With `beyond_chance` a figure that
    misses its limit fails only if its whole interval lies on the bad side of 0: on few rows a difference that chance
    explains is no evidence of harm.
    """

    figure: str = Field(description="a figure of the table below")
    bound: Literal["value", "low", "high"] = Field(
        "value", description="the estimate, or an end of its confidence interval"
    )
    at_least: float | None = Field(None, description="lower limit; a gate has exactly one limit")
    at_most: float | None = Field(None, description="upper limit")
    beyond_chance: bool = Field(False, description="a miss fails only if the interval also lies on the bad side of 0")

    @model_validator(mode="after")
    def _known(self) -> Gate:
        if self.figure not in FIGURES:
            raise ValueError(f"unknown figure: {closest(self.figure, FIGURES)}")
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"expected either at_least or at_most for {self.figure!r}, got both or none")
        if self.beyond_chance and self.bound != "value":
            raise ValueError(f"expected bound: value for {self.figure!r} with beyond_chance, got bound: {self.bound}")
        return self


SHIP_GATES = (
    Gate(figure="accuracy_gain_over_ensemble", at_least=-0.01, beyond_chance=True),
    Gate(figure="nll_gain_over_ensemble", at_least=-0.02, beyond_chance=True),
    Gate(figure="accuracy_gain_over_rival", at_least=-0.01, beyond_chance=True),
    Gate(figure="nll_gain_over_rival", at_least=-0.02, beyond_chance=True),
    Gate(figure="worst_class_drop", bound="low", at_most=0.03),
    Gate(figure="worst_group_drop", bound="low", at_most=0.03),
    Gate(figure="ece_over_ensemble", at_most=0.03, beyond_chance=True),
    Gate(figure="robustness_drop", at_most=0.03, beyond_chance=True),
    Gate(figure="parity", at_most=1e-4),
)
"""Is it fit to ship? No evidence of harm beyond a margin, against the ensemble and the best other training."""

STRICT_GATES = (
    Gate(figure="nll_gain_over_tuned_baseline", bound="low", at_least=0.0),
    Gate(figure="accuracy_gain_over_tuned_baseline", at_least=0.0),
    Gate(figure="recovery", at_least=0.8),
    Gate(figure="recovery", bound="low", at_least=0.5),
    Gate(figure="accuracy_gain_over_ensemble", bound="low", at_least=-0.01),
    Gate(figure="worst_class_drop", bound="low", at_most=0.03),
    Gate(figure="worst_group_drop", bound="low", at_most=0.03),
    Gate(figure="ece_over_ensemble", at_most=0.03),
    Gate(figure="agreement", at_least=0.85),
    Gate(figure="robustness_drop", at_most=0.03),
    Gate(figure="parity", at_most=1e-4),
)
"""Did the teachers help, beyond chance? And is it fit to ship, shown rather than not disproved?"""

BY_WORD = {"ship": SHIP_GATES, "strict": STRICT_GATES}


def _by_word(given: object) -> object:
    if not isinstance(given, str):
        return given
    if given not in BY_WORD:
        raise ValueError(f"expected a list of gates or a word: {closest(given, BY_WORD)}")
    return BY_WORD[given]


Gates = Annotated[tuple[Gate, ...], BeforeValidator(_by_word)]
"""A list of gates, or the word for one: ``ship`` or ``strict``."""
