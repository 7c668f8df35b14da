"""The steps that train networks, each with a run of its own: teachers, students and baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from distillery.config.experiment import Teacher
from distillery.devices import AUTO
from distillery.flows.tasks.context import Context, step
from distillery.flows.tracking.interface import RecordedRun
from distillery.stages.data.dataset import LEARNED, Dataset
from distillery.stages.distillation.distill import applied
from distillery.stages.roles import Role
from distillery.stages.students import student_training
from distillery.stages.students.final_models import TrainingGroup
from distillery.stages.teachers import teacher_training
from distillery.stages.teachers.member_keys import learned_from
from distillery.store import Handle, fingerprint

POINTS = 100  # of a training curve


@step("teachers", "teachers-{member.name}")
def train_teachers(ctx: Context, names: list[str], member: Teacher, data: Handle) -> list[Handle]:
    """Trained copies of one member."""
    config = ctx.config
    recipe = config.teachers.recipe_of(member)
    rows = learned_from(member, data)
    with ExitStack() as open_runs:
        runs = []
        for name in names:
            key = f"teacher-{fingerprint(name, member, recipe, config.seed, rows)}"
            runs.append(open_runs.enter_context(ctx.tracker.child("teacher", f"teacher {name}", key)))
        advance = ctx.bar(_times(f"teacher {member.name}", len(names)), recipe.epochs)
        handles: list[Handle] = ctx.workers.stage(
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
    return handles


@step("students", "students-{group.capacity.name}")
def train_students(
    ctx: Context, group: TrainingGroup, data: Handle, ensemble: Handle, transfer_logits: list[Handle]
) -> list[Handle]:
    """Distilled students at full length."""
    upstream = [
        Dataset(data).digest(*LEARNED),
        ensemble.fingerprint,
        *(handle.fingerprint for handle in transfer_logits),
    ]
    with _recorded(ctx, group, upstream) as (runs, on_epoch):
        handles: list[Handle] = ctx.workers.stage(
            student_training.train_students,
            group.capacity,
            group.requests,
            ctx.config.student,
            data,
            ensemble,
            transfer_logits,
            store=ctx.store,
            device=AUTO,
            on_epoch=on_epoch,
        )
        _describe_all(ctx, group, runs, handles)
    return handles


@step("baselines", "{group.role}s-{group.capacity.name}")
def train_baselines(ctx: Context, group: TrainingGroup, data: Handle) -> list[Handle]:
    """The same networks without a teacher: plain, with the student's own recipe, or tuned, with one of their own."""
    with _recorded(ctx, group, [Dataset(data).digest(*LEARNED)]) as (runs, on_epoch):
        handles: list[Handle] = ctx.workers.stage(
            student_training.train_baselines,
            group.capacity,
            group.requests,
            ctx.config.student,
            data,
            store=ctx.store,
            device=AUTO,
            on_epoch=on_epoch,
        )
        _describe_all(ctx, group, runs, handles)
    return handles


@contextmanager
def _recorded(
    ctx: Context, group: TrainingGroup, upstream: list[str]
) -> Iterator[tuple[list[RecordedRun], teacher_training.OnEpochOf]]:
    """A run for each network of the group, found again by its key, and what reports their epochs."""
    role = group.role.words
    name = f"{role} {group.capacity.name}"
    recipes = [applied(request.setting, ctx.config.student.recipe) for request in group.requests]
    epochs = max(recipe.epochs for recipe in recipes)
    with ExitStack() as open_runs:
        runs = []
        for request in group.requests:
            key = [group.role, group.capacity, request.setting, ctx.config.student, request.seed, *upstream]
            opened = ctx.tracker.child(role, name, f"{group.role}-{fingerprint(*key)}")
            runs.append(open_runs.enter_context(opened))
        advance = ctx.bar(_times(name, len(runs)), epochs)
        yield runs, _reporter(runs, advance, epochs)
        advance(epochs)


def _describe_all(ctx: Context, group: TrainingGroup, runs: Sequence[RecordedRun], handles: Sequence[Handle]) -> None:
    """Records how each network was trained and what it reaches on val_search."""
    role = group.role.words
    student = ctx.config.student
    for run, handle, request in zip(runs, handles, group.requests, strict=True):
        ctx.tracker.describes(run, f"{role} {handle.fingerprint}")
        if not run.fresh:
            continue
        setting = request.setting
        recipe = applied(setting, student.recipe)
        shown = {k: getattr(recipe, k) for k in ("lr", "weight_decay", "epochs")}
        if group.role is Role.STUDENT:
            loss = setting.chosen_loss(student.loss).name
            taught = {"temperature": setting.temperature, "alpha": setting.alpha, "loss": loss}
        else:
            taught = {"alpha": 0}
        run.params({"role": role, "model": group.capacity.name, **shown, "seed": request.seed, **taught})
        _describe(run, handle, "val_search")


def _describe(run: RecordedRun, handle: Handle, split: str) -> None:
    history = handle.json("history.json")
    if handle.cached:
        for number, record in enumerate(history, 1):
            if _is_drawn(number, len(history)):
                run.epoch(number, record)
    run.metrics({f"{split}/{k}": v for k, v in handle.metrics.items()})
    run.metrics({"train_seconds": handle.seconds})
    run.tags({"store": handle.path})


def _reporter(runs: Sequence[RecordedRun], advance: Callable[[int], None], epochs: int) -> teacher_training.OnEpochOf:
    """Moves the bar and draws the curves of the runs, of some `POINTS` points each; history.json has every epoch."""

    def on_epoch(place: int, epoch: int, record: dict[str, float]) -> None:
        advance(epoch)
        if runs[place].fresh and _is_drawn(epoch, epochs):
            runs[place].epoch(epoch, record)

    return on_epoch


def _times(name: str, count: int) -> str:
    return f"{name} x {count}" if count > 1 else name


def _is_drawn(epoch: int, epochs: int) -> bool:
    return epoch % max(1, epochs // POINTS) == 0 or epoch in (1, epochs)
