"""Every figure that a gate may name, from the records of a run."""

from __future__ import annotations

from dataclasses import replace

from distillery.ops.metrics import Interval
from distillery.stages.evaluation.record import EvaluationResult, Gain
from distillery.stages.export.record import ExportFigures
from distillery.stages.roles import Role

OF_CANDIDATE = ("accuracy", "nll", "ece", "agreement", "params", "latency_ms_p50", "latency_ms_p95")
OF_EXPORT = {
    "parity": "parity",
    "size_mb": "onnx_mb",
    "request_ms_p50": "request_ms_p50",
    "request_ms_p95": "request_ms_p95",
}


def gate_figures(evaluation: EvaluationResult, exported: ExportFigures) -> dict[str, Interval]:
    """Every figure that a gate may name, by that name; one that is missing was not measured."""
    figures: dict[str, Interval] = {}
    for role, gain in evaluation.gains.items():
        if role is Role.STUDENT:
            continue
        figures[f"accuracy_gain_over_{role}"] = gain.accuracy
        figures[f"nll_gain_over_{role}"] = gain.nll

    rival = evaluation.gains[evaluation.rival]
    figures["accuracy_gain_over_rival"] = rival.accuracy
    figures["nll_gain_over_rival"] = rival.nll
    for role in (Role.TUNED, Role.PLAIN):
        if role is evaluation.candidate.role:
            same = Interval(None, None, None, f"the {role.words} is itself the candidate")
            figures[f"accuracy_gain_over_{role}"] = same
            figures[f"nll_gain_over_{role}"] = same

    if Role.TUNED in evaluation.gap_recovery:
        recovery = evaluation.gap_recovery[Role.TUNED]
        figures["accuracy_recovery"] = recovery.accuracy
        figures["nll_recovery"] = recovery.nll
        figures["recovery"] = _recovery(recovery)

    for name in OF_CANDIDATE:
        figures[name] = _exact(getattr(evaluation.candidate, name))
    figures["ece_over_ensemble"] = evaluation.ece_over_ensemble
    for name, key in OF_EXPORT.items():
        figures[name] = _exact(getattr(exported, key))

    figures["worst_class_drop"] = evaluation.worst_class_drop
    figures["worst_group_drop"] = Interval(None, None, None, "no groups declared")
    if evaluation.groups is not None:
        figures["worst_group_drop"] = evaluation.groups.worst
    if evaluation.robustness:
        worst = max(evaluation.robustness, key=lambda row: row.beyond_ensemble.value or 0.0)
        figures["robustness_drop"] = replace(worst.beyond_ensemble, note=worst.disturbance)
    return figures


def _exact(value: float) -> Interval:
    """A figure without chance in it."""
    return Interval(value, value, value)


def _recovery(found: Gain) -> Interval:
    """Gap recovery in NLL, or in accuracy where only that has a gap: never the better of both, which chance favours."""
    if found.nll.value is None and found.accuracy.value is not None:
        return replace(found.accuracy, note="in accuracy, as NLL has no gap")
    return found.nll if found.nll.value is None else replace(found.nll, note="in NLL")
