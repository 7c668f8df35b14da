"""Numbers and settings in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NONE = "–"


def number(value: float | None) -> str:
    """Four digits that count."""
    return NONE if value is None else f"{value:.4g}"


def fixed(value: float | None) -> str:
    """Four digits after the point, as for accuracies."""
    return NONE if value is None else f"{value:.4f}"


def signed(value: float | None) -> str:
    """The same with a sign."""
    return NONE if value is None else f"{value:+.4f}"


def count(value: float | None) -> str:
    """A whole number with its thousands apart."""
    return NONE if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A share in per cent."""
    return NONE if value is None else f"{100 * value:.3g} %"


def money(value: float) -> str:
    """A sum without its currency."""
    return "below 0.0001" if 0 < value < 0.0001 else f"{value:,.2f}" if value >= 1 else f"{value:.2g}"


def seconds(value: float | None) -> str:
    """A duration: seconds, minutes or hours."""
    if value is None:
        return NONE
    if value < 120:
        return f"{value:.3g} s"
    whole = round(value)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"


def interval(found: dict[str, Any], write: Any = signed) -> str:
    """A figure with its confidence interval, or why there is none."""
    if found["value"] is None:
        return str(found.get("note") or NONE)
    ends = "" if found["low"] is None else f" [{write(found['low'])}, {write(found['high'])}]"
    return f"{write(found['value'])}{ends}"


def runtimes(rows: Sequence[dict[str, Any]]) -> str:
    """Where latencies were measured: ``in onnxruntime``, and which models elsewhere."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.get("runtime"):
            found.setdefault(row["runtime"], []).append(f"{row['role']} {row['name']}")
    if not found:
        return "not measured"
    usual = max(found, key=lambda runtime: len(found[runtime]))
    others = [f"{', '.join(names)} in {runtime}" for runtime, names in found.items() if runtime != usual]
    return "; ".join([f"in {usual}", *others])


def decisions(promotion: dict[str, Any]) -> str:
    """How often the test rows have served a decision about promotion; empty where that is not known."""
    found = promotion.get("decisions")
    if found is None:
        return ""
    same, every = found["same_rows"], found["all"]
    text = f"These test rows have served {same} {'decision' if same == 1 else 'decisions'} on promotion so far"
    if every > same:
        text += f"; {every - same} more of this model were made on other test splits, which may hold some of these rows"
    return f"{text}."


def setting(values: dict[str, Any]) -> dict[str, str]:
    """Knobs that are set, by the names that people know."""
    shown = {}
    for knob, value in values.items():
        if isinstance(value, dict):
            name = value.get("name", value.get("family"))
            shown[knob] = str(name)
            shown |= {f"{name}.{k}": _value(v) for k, v in value.items() if k not in ("name", "family")}
        elif value is not None:
            shown["T" if knob == "temperature" else knob.replace("_", " ")] = _value(value)
    return shown


def settings_of(row: dict[str, Any], tree: dict[str, Any]) -> dict[str, str]:
    """How a model of the report was made: every setting of its training, or of the pooling of an ensemble."""
    if row["role"] == "teacher":
        known = tree["teachers"][row["name"]]
        model = {k: v for k, v in known["model"].items() if k not in ("name", "copies", "recipe") and v is not None}
        return setting(model) | _recipe(known["recipe"])
    if row["role"] == "ensemble":
        return _pooling(row, tree)
    if row["role"] == "int8":
        return {"file": f"{number(row['size_mb'])} MB", "weights and activations": "int8"}
    trained = row["trained"]
    own = dict(trained["setting"] or {})
    if own:
        own["loss"] = own["loss"] or tree["config"]["student"]["loss"]
        taught = {k: own[k] for k in ("temperature", "alpha", "loss", "share")}
    else:
        taught = {"alpha": 0.0}
    return setting(taught) | _recipe(trained["recipe"]) | {"calibrated by": _value(trained["calibration_temperature"])}


def _recipe(recipe: dict[str, Any]) -> dict[str, str]:
    changes = {k: v for k, v in recipe["augment"].items() if v}
    return setting({k: v for k, v in recipe.items() if k != "augment" and v is not None} | changes)


def _pooling(row: dict[str, Any], tree: dict[str, Any]) -> dict[str, str]:
    used = tree["weights"]
    if not row["chosen"]:
        return {"weighting": "uniform", "pool": "probs", "members": str(len(used["members"]))}
    members = sum(weight > 0 for weight in used["members"].values())
    return {
        "weighting": used["weighting"],
        "pool": used["pool"],
        "temperature after pooling": _value(used["temperature"]),
        "members": str(members),
    }


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
