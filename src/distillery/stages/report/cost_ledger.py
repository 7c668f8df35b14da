"""What a run cost, and what labelling once and serving one small model save.

M members that teach, N items of an epoch, E epochs, V views. Seconds are those of the process that did the work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from distillery.config.experiment import Experiment, Recipe
from distillery.store import Handle


def price(seconds: float, per_hour: float) -> float:
    """What seconds of one process cost: ``seconds · per_hour / 3600``."""
    return seconds * per_hour / 3600


def stages(handles: Iterable[Handle]) -> dict[str, dict[str, float]]:
    """By stage: `parts`, and their seconds, `computed` in this run or `found` in the store, side by side or not."""
    table: dict[str, dict[str, float]] = {}
    for handle in distinct(handles).values():
        line = table.setdefault(handle.stage, {"parts": 0, "computed": 0.0, "found": 0.0})
        line["parts"] += 1
        line["found" if handle.cached else "computed"] += handle.seconds
    return table


def distinct(handles: Iterable[Handle]) -> dict[str, Handle]:
    """One handle for each result, by its path; of several the one that computed it."""
    found: dict[str, Handle] = {}
    for handle in handles:
        if handle.path not in found or not handle.cached:
            found[handle.path] = handle
    return found


def items_per_epoch(rows: int, recipe: Recipe) -> int:
    """N: items that a student is shown in one epoch; the rows that do not fill the last batch wait for the next one."""
    batch = min(recipe.batch_size, rows)
    return rows // batch * batch


def epochs_of_trial(trial: dict[str, Any], whole: int) -> int:
    """E of one trial: `whole` if it came to the end, else those of the last rung that it came to."""
    return whole if trial["state"] == "complete" else max((int(epoch) for epoch in trial["curve"]), default=0)


def passes(config: Experiment, rows: int, trials: list[dict[str, Any]], handles: Iterable[Handle]) -> dict[str, Any]:
    """Forward passes of teachers, a row through a member each.

    * `made`: M · V · rows of the transfer set, each once, and kept;
    * `elsewhere`: on the validation and test rows, which any way of training needs;
    * `in_the_loop`: Σ E · N · M over all trials and students, what teachers that run beside every step would make.

    A trial that diverged counts up to its last rung. Members whose logits were given make no passes, and with none
    left all three are zero.

    Args:
        config: The experiment.
        rows: Labelled training rows.
        trials: Of the study with a teacher.
        handles: Of all stages.
    """
    kept = _logits(config, handles)
    items = items_per_epoch(rows, config.student.recipe)
    members = len({name for name, split, _ in kept if split == "transfer"})
    whole = config.search.epochs or config.student.recipe.epochs
    students = [len(h.json("history.json")) for h in _students(handles)]
    epochs = {"trials": sum(epochs_of_trial(t, whole) for t in trials), "students": sum(students)}
    return {
        "members": members,
        "items_per_epoch": items,
        "trained": {"trials": len(trials), "students": len(students)},
        "epochs": epochs,
        "made": sum(h.metrics["rows"] for _, split, h in kept if split == "transfer"),
        "elsewhere": sum(h.metrics["rows"] for _, split, h in kept if split != "transfer"),
        "in_the_loop": members * items * sum(epochs.values()),
    }


def caching(config: Experiment, counted: dict[str, Any], handles: Iterable[Handle]) -> dict[str, Any]:
    """What keeping the logits saved, in seconds of teachers.

    * `labelling`: the seconds that labelling the transfer set took, summed over members;
    * `in_the_loop`: Σ_m p_m · N · ΣE, where p_m is the member's seconds per pass on the split that it labelled fastest:
      on few rows, what opens and closes a stage would pass for a slow teacher;
    * `saved`: the difference;
    * `epochs_until_paid`: labelling / (Σ_m p_m · N);
    * `students_until_paid`: that / E, with E epochs of the recipe.

    All None where a member's speed was not measured, for instance since a killed run had labelled some of the rows.

    Args:
        config: The experiment.
        counted: `passes`.
        handles: Of all stages.
    """
    kept = _logits(config, handles)
    labelled = {name: h for name, split, h in kept if split == "transfer"}
    pace = {name: _seconds_per_pass([h for other, _, h in kept if other == name]) for name in labelled}
    names = ("labelling", "in_the_loop", "saved", "epochs_until_paid", "students_until_paid")
    if not labelled or not all(_is_whole(h) for h in labelled.values()) or not all(pace.values()):
        return dict.fromkeys(names)
    spent = sum(h.seconds for h in labelled.values())
    per_epoch = sum(pace.values()) * counted["items_per_epoch"]
    loop = per_epoch * sum(counted["epochs"].values())
    until = spent / per_epoch
    return dict(zip(names, (spent, loop, loop - spent, until, until / config.student.recipe.epochs), strict=True))


def serving(rows: list[dict[str, Any]], spent: float) -> dict[str, Any]:
    """After how many answers the run has paid against serving the ensemble, both one row at a time on one thread.

    `predictions_until_paid` = spent seconds / ((ensemble's p50 - student's p50) / 1000), the latencies of the report's
    rows; `runtimes` says where they were measured. None where the student is not faster, or where the ensemble cannot
    be run. A million answers take 1000 · p50 seconds.

    Args:
        rows: Of the report.
        spent: Seconds of the whole run, teachers and baselines included.
    """
    ensemble, student = (next(r for r in rows if r["role"] == role and r["chosen"]) for role in ("ensemble", "student"))
    slow, fast = ensemble["latency_ms_p50"], student["latency_ms_p50"]
    faster = slow is not None and slow > fast
    until = spent / ((slow - fast) / 1000) if faster else None
    runtimes = {"ensemble": ensemble["runtime"], "student": student["runtime"]}
    return {"ensemble_ms": slow, "student_ms": fast, "runtimes": runtimes, "predictions_until_paid": until}


def ledger(
    config: Experiment, counted: dict[str, Any], rows: list[dict[str, Any]], handles: list[Handle]
) -> dict[str, Any]:
    """`stages`, `computed` and `found` seconds, `caching` and `serving` of a run."""
    table = stages(handles)
    sums = {kind: sum(line[kind] for line in table.values()) for kind in ("computed", "found")}
    both = {"caching": caching(config, counted, handles), "serving": serving(rows, sum(sums.values()))}
    return {"stages": table, **sums, **both}


def _logits(config: Experiment, handles: Iterable[Handle]) -> list[tuple[str, str, Handle]]:
    """(member, split, handle) of the cached logits of members that can be run."""
    run = {name: member for name, member, _ in config.teachers.each() if member.family != "given"}
    found = [h for h in distinct(handles).values() if h.stage == "logits"]
    parts = [(h.name.rpartition("-"), h) for h in found]
    return [(name, split, handle) for (name, _, split), handle in parts if name in run]


def _seconds_per_pass(labelled: list[Handle]) -> float:
    return min((h.seconds / h.metrics["rows"] for h in labelled if _is_whole(h)), default=0.0)


def _is_whole(labelled: Handle) -> bool:
    """Whether its seconds are those of all its rows: a killed run leaves some behind."""
    return bool(labelled.metrics["rows_computed"] == labelled.metrics["rows"] > 0)


def _students(handles: Iterable[Handle]) -> list[Handle]:
    return [h for h in distinct(handles).values() if h.stage == "students" and h.name.endswith("-student")]
