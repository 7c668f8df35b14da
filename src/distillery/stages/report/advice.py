"""Which to use for these data and this budget: the simple average, the weighted ensemble or the candidate. In words."""

from __future__ import annotations

from collections.abc import Mapping

from distillery.stages.evaluation.record import EvaluationResult, ModelRow
from distillery.stages.promotion.record import Promotion
from distillery.stages.roles import Role
from distillery.store.record import Part


class Option(Part):
    """What one choice gives and costs. `training_seconds` are all that it needs, computed now or found."""

    accuracy: float
    nll: float
    val_search_accuracy: float
    val_search_nll: float
    size_mb: float | None
    runtime: str | None
    latency_ms: float | None
    training_seconds: float


class Advice(Part):
    """What to use, sentences that say why, and every option by its name."""

    choice: str
    why: list[str]
    options: dict[str, Option]


def advise(
    evaluation: EvaluationResult,
    promotion: Promotion,
    weighting: str,
    seconds: Mapping[str, float],
    budget_ms: float | None,
) -> Advice:
    """Which of the options to use; it never contradicts the decision on promotion.

    Which ensemble is the better one rests on figures of val_search. Those of test stand beside it, for the reader.

    Args:
        evaluation: All models.
        promotion: The decision about the candidate.
        weighting: Of the ensemble in use.
        seconds: Of each stage.
        budget_ms: Latency at batch 1 that must be kept, p50, or None.
    """
    small = evaluation.candidate.role.words
    options = _options(evaluation, weighting, seconds)
    candidate = options[small]
    in_time = {name: _keeps(option, budget_ms) for name, option in options.items()}
    ensembles = [name for name in options if name != small]
    fitting = [name for name in ensembles if in_time[name]] or ensembles
    best = max(fitting, key=lambda name: (options[name].val_search_accuracy, -options[name].val_search_nll))
    whole = options[best]
    gain = candidate.val_search_accuracy - whole.val_search_accuracy
    on_test = candidate.accuracy - whole.accuracy

    why = [_helped(evaluation)]
    if budget_ms is not None:
        late = [name for name in options if not in_time[name]]
        why.append(f"Budget {budget_ms:g} ms: {'missed by ' + ', '.join(late) if late else 'kept by all'}.")
    why.append(
        f"The {small} is {_faster(whole, candidate, f' the {best}')} at {_points(gain)} points of accuracy on "
        f"val_search ({_points(on_test)} on test)."
    )
    if promotion.promoted:
        return Advice(choice=small, why=why, options=options)
    if promotion.is_fit:
        why.append(f"The {small} is fit to ship, and does not take the champion's place.")
        return Advice(choice="champion", why=why, options=options)
    if in_time[best]:
        why.append(f"The {small} is not fit to ship.")
        return Advice(choice=best, why=why, options=options)
    why.append(f"The {small} is not fit to ship, and no ensemble keeps the budget.")
    return Advice(choice="none", why=why, options=options)


def _keeps(option: Option, budget_ms: float | None) -> bool:
    if budget_ms is None:
        return True
    return option.latency_ms is not None and option.latency_ms <= budget_ms


def _options(evaluation: EvaluationResult, weighting: str, seconds: Mapping[str, float]) -> dict[str, Option]:
    simple = next(row for row in evaluation.rows if row.role is Role.ENSEMBLE)
    taught = seconds.get("teachers", 0.0) + seconds.get("logits", 0.0)
    distilled = seconds.get("search", 0.0) + seconds.get("students", 0.0)
    options = {"simple average": _option(simple, taught)}
    if weighting != "uniform":
        options["weighted ensemble"] = _option(evaluation.ensemble, taught)
    candidate = evaluation.candidate
    options[candidate.role.words] = _option(candidate, taught + distilled)
    return options


def _option(row: ModelRow, training_seconds: float) -> Option:
    return Option(
        accuracy=row.accuracy,
        nll=row.nll,
        val_search_accuracy=row.val_search_accuracy,
        val_search_nll=row.val_search_nll,
        size_mb=row.size_mb,
        runtime=row.runtime,
        latency_ms=row.latency_ms_p50,
        training_seconds=training_seconds,
    )


def _points(share: float) -> str:
    """A difference of accuracies in points, with its sign."""
    return f"{100 * share + 0.0:+.2f}"


def _faster(whole: Option, student: Option, other: str = "") -> str:
    """How many times as fast the student is, and in which runtimes."""
    if not whole.latency_ms or not student.latency_ms:
        return f"smaller than{other}" if other else "smaller"
    runtimes = (student.runtime, whole.runtime)
    where = f"both in {runtimes[0]}" if runtimes[0] == runtimes[1] else f"in {runtimes[0]} against {runtimes[1]}"
    times = f"{whole.latency_ms / student.latency_ms:.3g} times as fast"
    return f"{times}{f' as{other}' if other else ''} ({where})"


def _helped(evaluation: EvaluationResult) -> str:
    """Whether teachers helped: the student against the better of its baselines."""
    name = evaluation.best_baseline.words
    gain = evaluation.distillation.nll
    assert gain.value is not None
    assert gain.low is not None
    assert gain.high is not None
    figures = f"NLL gain over the {name} {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
    if gain.low > 0:
        text = f"Distillation helped, beyond chance: {figures}."
    elif gain.high < 0:
        text = f"Distillation hurt, beyond chance: {figures}."
    else:
        text = f"Distillation did not help beyond chance: {figures}."
    if evaluation.candidate.role is not Role.STUDENT:
        text += f" Teachers were not needed: the {evaluation.candidate.role.words} is the better small model."
    return text
