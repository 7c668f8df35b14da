"""What a run cost, and what labelling once and serving one small model save.

M members that teach, N items of an epoch, E epochs, V views. Seconds are those of the process that did the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from distillery.config.experiment import Experiment, Recipe
from distillery.stages.evaluation.record import ModelRow
from distillery.stages.roles import Role
from distillery.stages.search.record import Trial, TrialState
from distillery.store import Handle
from distillery.store.record import Part


class StageSeconds(Part):
    """Seconds of all parts of a stage, `computed` in this run or `found` in the store, side by side or not."""

    parts: int
    computed: float
    found: float


class Counts(Part):
    """A number for the trials of the study, and one for the final students."""

    trials: int
    students: int


class Passes(Part):
    """Forward passes of teachers, a row through a member each.

    Attributes:
        members: M, those whose logits on the transfer set were computed.
        items_per_epoch: N.
        trained: How many networks were trained.
        epochs: Their passes over the training rows; those of a network for each fold count together.
        made: M · V · rows of the transfer set, each once, or once more for each fold of students; they are kept.
        elsewhere: On the validation and test rows, which any way of training needs.
        in_the_loop: Σ E · N · M over all trials and students, what teachers that run beside every step would make.
    """

    members: int
    items_per_epoch: int
    trained: Counts
    epochs: Counts
    made: int
    elsewhere: int
    in_the_loop: int


class Caching(Part):
    """What keeping the logits saved, in seconds of teachers. All None where a member's speed was not measured.

    Attributes:
        labelling: Seconds that labelling the transfer set took, summed over members.
        in_the_loop: Σ_m p_m · N · ΣE, where p_m is the member's seconds per pass.
        saved: The difference.
        epochs_until_paid: labelling / (Σ_m p_m · N).
        students_until_paid: That / E, with E epochs of the recipe.
    """

    labelling: float | None = None
    in_the_loop: float | None = None
    saved: float | None = None
    epochs_until_paid: float | None = None
    students_until_paid: float | None = None


class Runtimes(Part):
    """Where the latencies of ensemble and candidate were measured."""

    ensemble: str | None
    candidate: str | None


class Serving(Part):
    """After how many answers the run has paid against serving the ensemble; None where it does not."""

    ensemble_ms: float | None
    candidate_ms: float
    runtimes: Runtimes
    predictions_until_paid: float | None


class Ledger(Part):
    """What a run cost."""

    stages: dict[str, StageSeconds]
    computed: float
    found: float
    caching: Caching
    serving: Serving


def price(seconds: float, per_hour: float) -> float:
    """What seconds of one process cost: ``seconds · per_hour / 3600``."""
    return seconds * per_hour / 3600


def stages(handles: Iterable[Handle]) -> dict[str, StageSeconds]:
    """What each stage took, by its name."""
    table: dict[str, StageSeconds] = {}
    for handle in distinct(handles).values():
        line = table.get(handle.stage, StageSeconds(parts=0, computed=0.0, found=0.0))
        table[handle.stage] = StageSeconds(
            parts=line.parts + 1,
            computed=line.computed + (0.0 if handle.cached else handle.seconds),
            found=line.found + (handle.seconds if handle.cached else 0.0),
        )
    return table


def distinct(handles: Iterable[Handle]) -> dict[str, Handle]:
    """One handle for each result, by its path; of several the one that computed it."""
    handles_by_path: dict[str, Handle] = {}
    for handle in handles:
        if handle.path not in handles_by_path or not handle.cached:
            handles_by_path[handle.path] = handle
    return handles_by_path


def items_per_epoch(rows: int, recipe: Recipe) -> int:
    """N: items that a student is shown in one epoch; the rows that do not fill the last batch wait for the next one."""
    batch = recipe.batch_of(rows)
    return rows // batch * batch


def epochs_of_trial(trial: Trial, whole: int) -> int:
    """E of one trial: `whole` if it came to the end, else those of the last rung that it came to."""
    return whole if trial.state is TrialState.COMPLETE else max(trial.curve, default=0)


def passes(config: Experiment, rows: int, trials: Sequence[Trial], handles: Iterable[Handle], folds: int = 0) -> Passes:
    """Forward passes of teachers that the run made, and that it would have made without a cache.

    A trial that diverged counts up to its last rung. Members whose logits were given make no passes, and with none
    left all counts of passes are zero.

    Args:
        config: The experiment.
        rows: Labelled training rows.
        trials: Of the study with a teacher.
        handles: Of all stages.
        folds: Of the students: a trial is then a network for each, trained on the other folds, and a student one more.
    """
    kept = _logits(config, handles)
    items = items_per_epoch(rows, config.student.recipe)
    members = len({name for name, split, _ in kept if _is_transfer(split)})
    whole = config.search.epochs or config.student.recipe.epochs
    students = [len(handle.json("history.json")) for handle in _students(handles)]
    of_trial = max(1, folds - 1)
    of_student = max(1, folds)
    epochs = Counts(
        trials=of_trial * sum(epochs_of_trial(trial, whole) for trial in trials), students=of_student * sum(students)
    )
    return Passes(
        members=members,
        items_per_epoch=items,
        trained=Counts(trials=len(trials), students=len(students)),
        epochs=epochs,
        made=sum(handle.metrics["rows"] for _, split, handle in kept if _is_transfer(split)),
        elsewhere=sum(handle.metrics["rows"] for _, split, handle in kept if not _is_transfer(split)),
        in_the_loop=members * items * (epochs.trials + epochs.students),
    )


def caching(config: Experiment, counted: Passes, handles: Iterable[Handle]) -> Caching:
    """What keeping the logits saved.

    A member's seconds per pass are those on the split that it labelled fastest: on few rows, what opens and closes a
    stage would pass for a slow teacher. They are not known where a killed run had labelled some of the rows.
    """
    kept = _logits(config, handles)
    labelled = [handle for _, split, handle in kept if _is_transfer(split)]
    pace = {}
    for name in {name for name, split, _ in kept if _is_transfer(split)}:
        pace[name] = _seconds_per_pass([handle for other, _, handle in kept if other == name])
    if not labelled or not all(map(_is_whole, labelled)) or not all(pace.values()):
        return Caching()

    spent = sum(handle.seconds for handle in labelled)
    per_epoch = sum(pace.values()) * counted.items_per_epoch
    loop = per_epoch * (counted.epochs.trials + counted.epochs.students)
    until = spent / per_epoch
    return Caching(
        labelling=spent,
        in_the_loop=loop,
        saved=loop - spent,
        epochs_until_paid=until,
        students_until_paid=until / config.student.recipe.epochs,
    )


def serving(rows: Sequence[ModelRow], spent: float) -> Serving:
    """After how many answers the run has paid against serving the ensemble, both one row at a time on one thread.

    `predictions_until_paid` = spent seconds / ((ensemble's p50 - candidate's p50) / 1000), latencies of the report's
    rows; `runtimes` says where they were measured. None where the candidate is not faster, or where the ensemble cannot
    be run. A million answers take 1000 · p50 seconds.

    Args:
        rows: Of the report.
        spent: Seconds of the whole run, teachers and baselines included.
    """
    ensemble = next(row for row in rows if row.role is Role.ENSEMBLE and row.chosen)
    candidate = next(row for row in rows if row.role is not Role.ENSEMBLE and row.chosen)
    slow = ensemble.latency_ms_p50
    fast = candidate.latency_ms_p50
    assert fast is not None
    until = None
    if slow is not None and slow > fast:
        until = spent / ((slow - fast) / 1000)
    return Serving(
        ensemble_ms=slow,
        candidate_ms=fast,
        runtimes=Runtimes(ensemble=ensemble.runtime, candidate=candidate.runtime),
        predictions_until_paid=until,
    )


def ledger(config: Experiment, counted: Passes, rows: Sequence[ModelRow], handles: list[Handle]) -> Ledger:
    """What a run cost, and what labelling once and serving the student save."""
    table = stages(handles)
    computed = sum(line.computed for line in table.values())
    found = sum(line.found for line in table.values())
    return Ledger(
        stages=table,
        computed=computed,
        found=found,
        caching=caching(config, counted, handles),
        serving=serving(rows, computed + found),
    )


def _logits(config: Experiment, handles: Iterable[Handle]) -> list[tuple[str, str, Handle]]:
    """(member, split, handle) of the cached logits of members that can be run."""
    run = {name: member for name, member, _ in config.teachers.each() if member.family != "given"}
    cached = [h for h in distinct(handles).values() if h.stage == "logits"]
    parts = [(h.name.rpartition("-"), h) for h in cached]
    return [(name, split, handle) for (name, _, split), handle in parts if name in run]


def _is_transfer(split: str) -> bool:
    """Whether logits are on the transfer set, perhaps by models without a fold."""
    return split.startswith("transfer")


def _seconds_per_pass(labelled: list[Handle]) -> float:
    return min((h.seconds / h.metrics["rows"] for h in labelled if _is_whole(h)), default=0.0)


def _is_whole(labelled: Handle) -> bool:
    """Whether its seconds are those of all its rows: a killed run leaves some behind."""
    return bool(labelled.metrics["rows_computed"] == labelled.metrics["rows"] > 0)


def _students(handles: Iterable[Handle]) -> list[Handle]:
    return [h for h in distinct(handles).values() if h.stage == "students" and h.name.endswith("-student")]
