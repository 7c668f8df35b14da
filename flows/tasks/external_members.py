"""Teachers that exist already and take raw rows: each is asked about every row before anything trains."""

from __future__ import annotations

from distillery.config.experiment import Experiment, Teacher
from distillery.flows.tasks.context import Context, step
from distillery.sources import Rows
from distillery.stages.data.dataset import Dataset
from distillery.stages.teachers import external_members
from distillery.store import Handle


@step("answers", "answers-{member.name}")
def ask(ctx: Context, member: Teacher, rows: Rows, data: Handle) -> Teacher:
    """The teacher with its answers given."""
    if member.family == "mlflow":
        from distillery.flows.tracking.external_models import open_model

        identity, predict = open_model(member)
    else:
        identity, predict = external_members.open_pickle(member)
    handle = external_members.ask(member.name, identity, predict, rows, Dataset(data).classes, ctx.store)
    ctx.note([handle])
    return external_members.as_given(member, handle)


def resolve_external_teachers(ctx: Context, rows: Rows, data: Handle) -> Experiment:
    """The config with given logits in the place of every teacher that was trained elsewhere."""
    members = []
    for member in ctx.config.teachers.members:
        if external_members.is_outside(member):
            members.append(ask(ctx, member, rows, data))
        else:
            members.append(member)
    teachers = ctx.config.teachers.model_copy(update={"members": tuple(members)})
    return ctx.config.model_copy(update={"teachers": teachers})
