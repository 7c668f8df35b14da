"""Which to use for these data and this budget: the simple average, the weighted ensemble or the student. In words."""

from __future__ import annotations

from typing import Any

MARGIN = 0.005  # accuracy that a user is not expected to miss


def advise(report: dict[str, Any], budget_ms: float | None) -> dict[str, Any]:
    """`choice`, `why` (sentences) and `options`: what each one gives and costs.

    The choice rests on figures of val_search. Those of test stand beside it, for the reader.

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
    best = max(fitting, key=lambda k: (ensembles[k]["val_search_accuracy"], -ensembles[k]["val_search_nll"]))
    whole = ensembles[best]
    lost = whole["val_search_accuracy"] - student["val_search_accuracy"]
    on_test = whole["accuracy"] - student["accuracy"]
    why = [_helped(report)]
    if budget_ms is not None:
        late = [k for k in options if not in_time[k]]
        why.append(f"Budget {budget_ms:g} ms: {'missed by ' + ', '.join(late) if late else 'kept by all'}.")
    if in_time["student"] and (lost <= MARGIN or not in_time[best]):
        choice = "student"
        why.append(
            f"The student is {_faster(whole, student, f' the {best}')} at {_points(-lost)} points of accuracy on "
            f"val_search ({_points(-on_test)} on test)."
        )
    elif in_time[best]:
        choice = best
        why.append(
            f"The {best} is {_points(lost)} points more accurate on val_search ({_points(on_test)} on test); "
            f"the student would be {_faster(whole, student)}."
        )
    else:
        choice = "none"
        why.append("Nothing keeps the budget: search smaller capacities.")
    return {"choice": choice, "why": why, "options": options}


def _options(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Quality on both splits, latency at batch 1 (ms), size (10^6 bytes) and training seconds of each choice."""
    rows, seconds = report["rows"], report["seconds"]
    ensembles = [r for r in rows if r["role"] == "ensemble"]
    chosen = next(r for r in rows if r["role"] == "student" and r["chosen"])
    taught = sum(seconds.get(k, 0.0) for k in ("teachers", "logits"))
    extra = sum(seconds.get(k, 0.0) for k in ("search", "students"))
    found = {"simple average": _figures(ensembles[0], taught)}
    if report["weights"]["weighting"] != "uniform":
        found["weighted ensemble"] = _figures(ensembles[-1], taught)
    return found | {"student": _figures(chosen, taught + extra)}


def _figures(row: dict[str, Any], training_seconds: float) -> dict[str, Any]:
    names = ("accuracy", "nll", "val_search_accuracy", "val_search_nll", "size_mb", "runtime")
    times = {"latency_ms": row["latency_ms_p50"], "training_seconds": training_seconds}
    return {k: row[k] for k in names} | times


def _points(share: float) -> str:
    """A difference of accuracies in points, with its sign."""
    return f"{100 * share + 0.0:+.2f}"


def _faster(whole: dict[str, Any], student: dict[str, Any], other: str = "") -> str:
    """How many times as fast the student is, and in which runtimes."""
    if not whole["latency_ms"]:
        return f"smaller than{other}" if other else "smaller"
    runtimes = (student["runtime"], whole["runtime"])
    where = f"both in {runtimes[0]}" if runtimes[0] == runtimes[1] else f"in {runtimes[0]} against {runtimes[1]}"
    times = f"{whole['latency_ms'] / student['latency_ms']:.3g} times as fast"
    return f"{times}{f' as{other}' if other else ''} ({where})"


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
