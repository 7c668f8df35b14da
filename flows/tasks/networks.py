"""The tasks that train networks, each with a run of its own: teachers, students and baselines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

from distillery.config.experiment import Capacity, Teacher
from distillery.devices import AUTO
from distillery.flows.tasks.stages import Context, stage
from distillery.flows.tracking.runs import Run
from distillery.stages.data.dataset import LEARNED, Dataset
from distillery.stages.distillation import distill
from distillery.stages.students import student_training
from distillery.stages.students.final_models import Promise
from distillery.stages.teachers import teacher_training
from distillery.stages.teachers.member_keys import learned_from
from distillery.store import Handle, fingerprint

POINTS = 100  # of a training curve


@stage(name="teachers", task_run_name="teachers-{member.name}")
def train_teachers(ctx: Context, names: list[str], member: Teacher, data: Handle) -> list[Handle]:
    """Trained copies of one member."""
    config, recipe = ctx.config, ctx.config.teachers.recipe_of(member)
    rows = learned_from(member, data)
    keys = [f"teacher-{fingerprint(n, member, recipe, config.seed, rows)}" for n in names]
    with ExitStack() as open_runs:
        opened = zip(names, keys, strict=True)
        runs = [open_runs.enter_context(ctx.tracker.child("teacher", f"teacher {n}", key)) for n, key in opened]
        advance = ctx.bar(f"teacher {member.name}" + (f" x {len(names)}" if len(names) > 1 else ""), recipe.epochs)
        handles = ctx.workers.stage(
            teacher_training.train_teachers,
            names,
            member,
            recipe,
            config.seed,
            data,
            store=ctx.store,
            device=AUTO,
            on_epoch=_reporter(runs, advance, recipe.epochs),
        )
        advance(recipe.epochs)
        for run, handle in zip(runs, handles, strict=True):
            if run.fresh:
                # Few parameters, the same on all kinds of runs: the compare page shows them without being asked.
                trained = bool(handle.json("history.json"))
                shown = {k: getattr(recipe, k) for k in ("lr", "weight_decay", "epochs")} if trained else {}
                run.params({"role": "teacher", "model": member.options.get("arch", member.name), **shown})
                run.json({"model": member.model_dump(), "recipe": recipe.model_dump()}, "teacher.json")
                _describe(run, handle, "val_ensemble")
    return ctx.done_all(handles)


@stage(name="students", task_run_name="students-{capacity.name}")
def train_students(
    ctx: Context,
    capacity: Capacity,
    wanted: list[student_training.Wanted],
    data: Handle,
    pooled: Handle,
    transfer_logits: list[Handle],
) -> list[Handle]:
    """Distilled students at full length."""
    taught = [Dataset(data).digest(*LEARNED), pooled.fingerprint, *(h.fingerprint for h in transfer_logits)]
    keys = [["student", capacity, w.setting, ctx.config.student, w.seed, *taught] for w in wanted]
    inputs = (capacity, wanted, ctx.config.student, data, pooled, transfer_logits)
    return ctx.done_all(_finals(ctx, "student", capacity, wanted, keys, student_training.train_students, inputs))


@stage(name="baselines", task_run_name="{role}-baselines-{capacity.name}")
def train_baselines(
    ctx: Context, role: str, capacity: Capacity, wanted: list[student_training.Wanted], data: Handle
) -> list[Handle]:
    """The same networks without a teacher: plain, with the student's own recipe, or tuned, with one of their own."""
    rows = Dataset(data).digest(*LEARNED)
    keys = [[role, capacity, w.setting, ctx.config.student, w.seed, rows] for w in wanted]
    inputs = (capacity, wanted, ctx.config.student, data)
    return ctx.done_all(
        _finals(ctx, f"{role} baseline", capacity, wanted, keys, student_training.train_baselines, inputs)
    )


def begin_students(
    ctx: Context,
    data: Handle,
    pooled: Handle,
    logits: list[Handle],
    capacity: Capacity,
    wanted: list[student_training.Wanted],
) -> Promise:
    """Submits `train_students`."""
    task: Any = train_students.submit(ctx, capacity, wanted, data, pooled, logits)
    return cast(Promise, task.result)


def begin_baselines(
    ctx: Context, data: Handle, role: str, capacity: Capacity, wanted: list[student_training.Wanted]
) -> Promise:
    """Submits `train_baselines`."""
    task: Any = train_baselines.submit(ctx, role, capacity, wanted, data)
    return cast(Promise, task.result)


def _finals(
    ctx: Context,
    role: str,
    capacity: Capacity,
    wanted: list[student_training.Wanted],
    keys: list[list[Any]],
    train: Callable[..., list[Handle]],
    inputs: tuple[Any, ...],
) -> list[Handle]:
    recipes = [distill.applied(w.setting, ctx.config.student.recipe) for w in wanted]
    name, epochs = f"{role} {capacity.name}", max(recipe.epochs for recipe in recipes)
    with ExitStack() as open_runs:
        runs = [
            open_runs.enter_context(ctx.tracker.child(role, name, f"{role.split()[0]}-{fingerprint(*key)}"))
            for key in keys
        ]
        advance = ctx.bar(name + (f" x {len(wanted)}" if len(wanted) > 1 else ""), epochs)
        report = _reporter(runs, advance, epochs)
        handles = ctx.workers.stage(train, *inputs, store=ctx.store, device=AUTO, on_epoch=report)
        advance(epochs)
        for run, handle, own, recipe in zip(runs, handles, wanted, recipes, strict=True):
            ctx.tracker.describes(run, f"{role} {handle.fingerprint}")
            if run.fresh:
                loss = own.setting.chosen_loss(ctx.config.student.loss).name
                soft = {"temperature": own.setting.temperature, "alpha": own.setting.alpha, "loss": loss}
                shown = {k: getattr(recipe, k) for k in ("lr", "weight_decay", "epochs")} | {"seed": own.seed}
                taught = soft if role == "student" else {"alpha": 0}
                run.params({"role": role, "model": capacity.name, **shown, **taught})
                _describe(run, handle, "val_search")
    return handles


def _describe(run: Run, handle: Handle, split: str) -> None:
    history = handle.json("history.json")
    if handle.cached:
        for number, record in enumerate(history, 1):
            if _is_drawn(number, len(history)):
                run.epoch(number, record)
    run.metrics({f"{split}/{k}": v for k, v in handle.metrics.items()})
    run.metrics({"train_seconds": handle.seconds})
    run.tags({"store": handle.path})


def _reporter(runs: list[Run], advance: Callable[[int], None], epochs: int) -> teacher_training.OnEpochOf:
    """CounterRNG the curves of the runs, of some `POINTS` points each; history.json has every epoch."""

    def on_epoch(place: int, epoch: int, record: dict[str, float]) -> None:
        advance(epoch)
        if runs[place].fresh and _is_drawn(epoch, epochs):
            runs[place].epoch(epoch, record)

    return on_epoch


def _is_drawn(epoch: int, epochs: int) -> bool:
    return epoch % max(1, epochs // POINTS) == 0 or epoch in (1, epochs)
