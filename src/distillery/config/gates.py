"""Promotion gates: what a student must show before it may become the champion, as a list in the config."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from distillery.config.section import Section
from distillery.registry import closest

FIGURES = {
    "nll_gain_over_tuned_baseline": "tuned baseline's NLL minus the student's",
    "accuracy_gain_over_tuned_baseline": "student's accuracy minus the tuned baseline's",
    "nll_gain_over_plain_baseline": "plain baseline's NLL minus the student's",
    "accuracy_gain_over_plain_baseline": "student's accuracy minus the plain baseline's",
    "accuracy_gain_over_ensemble": "student's accuracy minus the ensemble's",
    "nll_gain_over_ensemble": "ensemble's NLL minus the student's",
    "recovery": "gap recovery against the tuned baseline in NLL, or in accuracy where NLL has no gap",
    "accuracy_recovery": "gap recovery in accuracy against the tuned baseline",
    "nll_recovery": "gap recovery in NLL against the tuned baseline",
    "accuracy": "of the student",
    "nll": "of the student",
    "ece": "expected calibration error of the student",
    "ece_over_ensemble": "student's expected calibration error minus the ensemble's",
    "agreement": "share of rows on which student and ensemble have the same top class",
    "worst_class_drop": "largest drop of a class's recall below the tuned baseline's",
    "worst_group_drop": "largest drop of a declared group's accuracy below the tuned baseline's",
    "robustness_drop": "largest loss of accuracy under a disturbance beyond the ensemble's own loss",
    "latency_ms_p50": "of the student, from an encoded row, as for every model of the report",
    "latency_ms_p95": "of the student, from an encoded row, as for every model of the report",
    "request_ms_p50": "of a whole request to the exported model, preprocessing and class names included",
    "request_ms_p95": "of a whole request to the exported model, preprocessing and class names included",
    "params": "parameters of the student",
    "size_mb": "size of the exported model in 10^6 bytes",
    "parity": "largest difference of a probability between the exported model and the network",
}


class Gate(Section):
    """One figure of the test split and its limit. `bound` takes an end of its confidence interval."""

    figure: str
    bound: Literal["value", "low", "high"] = "value"
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _known(self) -> Gate:
        if self.figure not in FIGURES:
            raise ValueError(f"unknown figure: {closest(self.figure, FIGURES)}")
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"expected either at_least or at_most for {self.figure!r}, got both or none")
        return self


DEFAULT_GATES = (
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
