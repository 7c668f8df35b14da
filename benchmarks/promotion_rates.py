"""How often the product's own rule promotes a model, by simulation.

    python benchmarks/promotion_rates.py [--draws 400]

An ensemble, a candidate and a rival are noisy copies of one classifier on made-up rows of three classes. As good: their
noise is equal, so that they are equal in truth. Two points worse: the candidate's noise is larger, by so much that its
accuracy is two points lower in truth. Every draw compares the three on new test rows, by the comparisons of the
evaluation and the gates of the config; figures that need more than logits (parity, disturbed rows) are left open.
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from distillery.config.gates import SHIP_GATES, STRICT_GATES, Gate
from distillery.ops.calibration_error import ece_difference
from distillery.ops.metrics import Interval, row_correct
from distillery.stages.evaluation import comparisons
from distillery.stages.promotion.gates import judge

CLASSES = 3
SPREAD = 1.6  # of the true logits: accuracy near .8
NOISE = 0.5  # of each model
SETTINGS = {"resamples": 300, "confidence": 0.95}
ROWS = (150, 700, 5000)


def draw(rows: int, noise: float, generator: np.random.Generator) -> tuple[np.ndarray, ...]:
    """(labels [N], logits [N, C] of the ensemble, of the rival and of a candidate with such noise)."""
    truth = SPREAD * generator.normal(size=(rows, CLASSES))
    gumbel = generator.gumbel(size=truth.shape)
    labels = (truth + gumbel).argmax(-1)  # drawn from softmax(truth)
    noises = (NOISE, NOISE, noise)
    models = [calibrated(truth + sd * generator.normal(size=truth.shape), sd) for sd in noises]
    return labels, *models


def calibrated(logits_NC: np.ndarray, noise: float) -> np.ndarray:
    """Logits [N, C] shrunk as far as their noise asks for."""
    return logits_NC * SPREAD**2 / (SPREAD**2 + noise**2)


def noise_for(points: float) -> float:
    """The noise that costs so many points of accuracy, by bisection on a million rows."""
    low, high = NOISE, 4.0
    reached = accuracy(NOISE) - points / 100
    for _ in range(18):
        middle = (low + high) / 2
        low, high = (middle, high) if accuracy(middle) > reached else (low, middle)
    return (low + high) / 2


def accuracy(noise: float) -> float:
    """Of a model with such noise, on a million rows that are always the same."""
    labels, *_, logits = draw(1_000_000, noise, np.random.default_rng(0))
    return float(row_correct(logits, labels).mean())


def is_promoted(gates: tuple[Gate, ...], rows: int, noise: float, generator: np.random.Generator) -> bool:
    """Whether no gate fails on one draw of test rows."""
    labels, ensemble, rival, candidate = draw(rows, noise, generator)
    over_ensemble = comparisons.gains(candidate, ensemble, labels, **SETTINGS)  # type: ignore[arg-type]
    over_rival = comparisons.gains(candidate, rival, labels, **SETTINGS)  # type: ignore[arg-type]
    parts = {str(number): np.flatnonzero(labels == number) for number in range(CLASSES)}
    recovery = comparisons.recoveries(candidate, rival, ensemble, labels, **SETTINGS)  # type: ignore[arg-type]
    agreement = float((candidate.argmax(-1) == ensemble.argmax(-1)).mean())
    figures = {
        "accuracy_gain_over_ensemble": over_ensemble.accuracy,
        "nll_gain_over_ensemble": over_ensemble.nll,
        "accuracy_gain_over_rival": over_rival.accuracy,
        "nll_gain_over_rival": over_rival.nll,
        "accuracy_gain_over_tuned_baseline": over_rival.accuracy,
        "nll_gain_over_tuned_baseline": over_rival.nll,
        "recovery": recovery.nll,
        "agreement": Interval(agreement, agreement, agreement),
        "worst_class_drop": comparisons.worst_drop(candidate, ensemble, labels, parts, SETTINGS["confidence"]),
        "ece_over_ensemble": ece_difference(candidate, ensemble, labels, **SETTINGS),  # type: ignore[arg-type]
    }
    return all(verdict.passed is not False for verdict in judge(gates, figures))


def main() -> None:
    """Prints the share of draws that are promoted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=400)
    draws = parser.parse_args().draws
    worse = noise_for(2.0)
    table = Table(title=f"share of {draws} draws that are promoted")
    for column in (
        "test rows",
        "ship: as good",
        "ship: two points worse",
        "strict: as good",
        "strict: two points worse",
    ):
        table.add_column(column, justify="right")
    for rows in ROWS:
        shares = []
        for gates in (SHIP_GATES, STRICT_GATES):
            for noise in (NOISE, worse):
                generator = np.random.default_rng(rows)
                promoted = [is_promoted(gates, rows, noise, generator) for _ in range(draws)]
                shares.append(f"{100 * np.mean(promoted):.1f} %")
        table.add_row(f"{rows:,}", *shares)
    Console().print(table)
    Console().print(f"accuracy in truth: {accuracy(NOISE):.4f} as good, {accuracy(worse):.4f} worse")


if __name__ == "__main__":
    main()
