"""Numbers and settings in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pydantic import JsonValue

from distillery.ops.metrics import Interval
from distillery.stages.evaluation.record import ModelRow
from distillery.stages.promotion.record import Promotion
from distillery.stages.report.record import Report
from distillery.stages.roles import Role

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


def interval(figure: Interval, write: Callable[[float | None], str] = signed) -> str:
    """A figure with its confidence interval, or why there is none."""
    if figure.value is None:
        return figure.note or NONE
    ends = "" if figure.low is None else f" [{write(figure.low)}, {write(figure.high)}]"
    return f"{write(figure.value)}{ends}"


def runtimes(rows: Sequence[ModelRow]) -> str:
    """Where latencies were measured: ``in onnxruntime``, and which models elsewhere."""
    titles: dict[str, list[str]] = {}
    for row in rows:
        if row.runtime:
            titles.setdefault(row.runtime, []).append(row.title)
    if not titles:
        return "not measured"
    usual = max(titles, key=lambda runtime: len(titles[runtime]))
    others = [f"{', '.join(names)} in {runtime}" for runtime, names in titles.items() if runtime != usual]
    return "; ".join([f"in {usual}", *others])


def decisions(promotion: Promotion) -> str:
    """How often the test rows have served a decision about promotion; empty where that is not known."""
    count = promotion.decisions
    if count is None:
        return ""
    noun = "decision" if count.same_rows == 1 else "decisions"
    text = f"These test rows have served {count.same_rows} {noun} on promotion so far"
    if count.all > count.same_rows:
        text += (
            f"; {count.all - count.same_rows} more of this model were made on other test splits, which may hold some "
            f"of these rows"
        )
    return f"{text}."


def setting(values: Mapping[str, JsonValue]) -> dict[str, str]:
    """Knobs that are set, by the names that people know."""
    shown = {}
    for knob, value in values.items():
        if isinstance(value, dict):
            name = value.get("name", value.get("family"))
            shown[knob] = str(name)
            for option, given in value.items():
                if option not in ("name", "family"):
                    shown[f"{name}.{option}"] = _value(given)
        elif value is not None:
            shown["T" if knob == "temperature" else knob.replace("_", " ")] = _value(value)
    return shown


def settings_of(row: ModelRow, report: Report) -> dict[str, str]:
    """How a model of the report was made: every setting of its training, or of the pooling of an ensemble."""
    if row.role is Role.TEACHER:
        teacher = report.teachers[row.name]
        hidden = ("name", "copies", "recipe")
        model = {name: value for name, value in teacher.model.items() if name not in hidden and value is not None}
        return setting(model) | _recipe(teacher.recipe)
    if row.role is Role.ENSEMBLE:
        return _pooling(row, report)
    assert row.trained is not None
    taught: dict[str, JsonValue] = {"alpha": 0.0}
    if row.trained.setting is not None:
        own = dict(row.trained.setting)
        own["loss"] = own["loss"] or _default_loss(report)
        taught = {name: own[name] for name in ("temperature", "alpha", "loss", "unlabeled_fraction")}
    calibration = {"calibrated by": _value(row.trained.calibration_temperature)}
    return setting(taught) | _recipe(row.trained.recipe) | calibration


def _default_loss(report: Report) -> JsonValue:
    student = report.config["student"]
    assert isinstance(student, dict)
    return student["loss"]


def _recipe(recipe: Mapping[str, JsonValue]) -> dict[str, str]:
    augment = recipe["augment"]
    assert isinstance(augment, dict)
    values = {name: value for name, value in recipe.items() if name != "augment" and value is not None}
    values |= {name: value for name, value in augment.items() if value}
    return setting(values)


def _pooling(row: ModelRow, report: Report) -> dict[str, str]:
    used = report.weights
    if not row.chosen:
        return {"weighting": "uniform", "pool": "probs", "members": str(len(used.members))}
    members = sum(weight > 0 for weight in used.members.values())
    return {
        "weighting": used.weighting,
        "pool": used.pool,
        "temperature after pooling": _value(used.temperature),
        "members": str(members),
    }


def _value(value: JsonValue) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
