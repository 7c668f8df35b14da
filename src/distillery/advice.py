"""Which to use for these data and this budget: the simple average, the weighted ensemble or the student. In words."""

from __future__ import annotations

from typing import Any

MARGIN = 0.005  # accuracy that a user is not expected to miss


def advise(report: dict[str, Any], budget_ms: float | None) -> dict[str, Any]:
    """`choice`, `why` (sentences) and `options`: what each one gives and costs.

    Args:
        report: The assembled report.
        budget_ms: Latency at batch 1 that must be kept, p50, or None.
    """
    options = _options(report)
    student, ensembles = options["student"], {k: v for k, v in options.items() if k != "student"}
    in_time = {
        k: budget_ms is None or (v["latency_ms"] is not None and v["latency_ms"] <= budget_ms)
        for k, v in options.items()
    }
    fitting = [k for k in ensembles if in_time[k]] or list(ensembles)
    best = max(fitting, key=lambda k: (ensembles[k]["accuracy"], -ensembles[k]["nll"]))
    whole = ensembles[best]
    lost = whole["accuracy"] - student["accuracy"]
    why = [_helped(report)]
    if budget_ms is not None:
        late = [k for k in options if not in_time[k]]
        why.append(f"Budget {budget_ms:g} ms: {'missed by ' + ', '.join(late) if late else 'kept by all'}.")
    if in_time["student"] and (lost <= MARGIN or not in_time[best]):
        choice = "student"
        why.append(
            f"The student is {_faster(whole, student, f' the {best}')} at {-100 * lost + 0.0:+.2f} points of accuracy."
        )
    elif in_time[best]:
        choice = best
        why.append(
            f"The {best} is {100 * lost:.2f} points more accurate; the student would be {_faster(whole, student)}."
        )
    else:
        choice = "none"
        why.append("Nothing keeps the budget: search smaller capacities.")
    return {"choice": choice, "why": why, "options": options}


def _options(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Accuracy, NLL, latency at batch 1 (ms), size (10^6 bytes) and training seconds of each choice."""
    rows, seconds = report["rows"], report["seconds"]
    ensembles = [r for r in rows if r["role"] == "ensemble"]
    chosen = next(r for r in rows if r["role"] == "student" and r["chosen"])
    taught = sum(seconds.get(k, 0.0) for k in ("teachers", "logits"))
    found = {"simple average": ensembles[0]}
    if report["weights"]["weighting"] != "uniform":
        found["weighted ensemble"] = ensembles[-1]
    options = {
        k: {**_figures(r), "latency_ms": r["latency_ms_p50"], "training_seconds": taught} for k, r in found.items()
    }
    extra = sum(seconds.get(k, 0.0) for k in ("search", "students"))
    served = chosen.get("served_latency_ms_p50", chosen["latency_ms_p50"])
    options["student"] = {**_figures(chosen), "latency_ms": served, "training_seconds": taught + extra}
    return options


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    return {k: row[k] for k in ("accuracy", "nll", "size_mb")}


def _faster(whole: dict[str, Any], student: dict[str, Any], other: str = "") -> str:
    if not whole["latency_ms"]:
        return f"smaller than{other}" if other else "smaller"
    return f"{whole['latency_ms'] / student['latency_ms']:.3g} times as fast" + (f" as{other}" if other else "")


def _helped(report: dict[str, Any]) -> str:
    rival = "tuned_baseline" if "tuned_baseline" in report["gains"] else "plain_baseline"
    gain, name = report["gains"][rival]["nll"], rival.replace("_", " ")
    if gain["low"] > 0:
        return (
            f"Distillation helped: beyond chance, the student's NLL is lower than the {name}'s by {gain['value']:.4f}."
        )
    if gain["high"] < 0:
        return f"Distillation hurt: the {name}, which never saw a teacher, is better by {-gain['value']:.4f} of NLL."
    return f"Distillation did not help beyond chance: NLL gain over the {name} {gain['value']:+.4f}."
