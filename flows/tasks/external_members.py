"""Teachers that exist already and take raw rows, asked about every row before anything trains."""

from __future__ import annotations

from distillery.config.experiment import Experiment, Teacher
from distillery.flows.tasks.stages import Context, stage
from distillery.flows.tracking.external_models import open_model
from distillery.sources import Rows
from distillery.stages.data.dataset import Dataset
from distillery.stages.teachers import external_members
from distillery.store import Handle


@stage(name="answers", task_run_name="answers-{member.name}")
def ask(ctx: Context, member: Teacher, rows: Rows, data: Handle) -> Teacher:
    """The teacher with its answers given."""
    identity, predict = open_model(member) if member.family == "mlflow" else external_members.open_pickle(member)
    handle = external_members.ask(member.name, identity, predict, rows, Dataset(data).classes, ctx.store)
    ctx.note([handle])
    return external_members.as_given(member, handle)


def answered(ctx: Context, rows: Rows, data: Handle) -> Experiment:
    """The config with given logits in the place of every teacher from outside."""
    config, given = ctx.config, []
    for member in config.teachers.members:
        given.append(ask.submit(ctx, member, rows, data).result() if external_members.is_outside(member) else member)
    teachers = config.teachers.model_copy(update={"members": tuple(given)})
    return config.model_copy(update={"teachers": teachers})
