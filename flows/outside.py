"""Teachers that exist already and take raw rows, asked about every row before anything trains."""

from __future__ import annotations

from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from distillery import outside
from distillery.config import Experiment, Teacher
from distillery.data import Rows
from distillery.dataset import Dataset
from distillery.errors import InputError
from distillery.store import Handle
from flows.stages import Context, stage


@stage(name="answers", task_run_name="answers-{member.name}")
def ask(ctx: Context, member: Teacher, rows: Rows, data: Handle) -> Teacher:
    """The teacher with its answers given."""
    identity, predict = _tracked(member) if member.family == "mlflow" else outside.open_pickle(member)
    handle = outside.ask(member.name, identity, predict, rows, Dataset(data).classes, ctx.store)
    ctx.note([handle])
    return outside.as_given(member, handle)


def answered(ctx: Context, rows: Rows, data: Handle) -> Experiment:
    """The config with given logits in the place of every teacher from outside."""
    config, given = ctx.config, []
    for member in config.teachers.members:
        given.append(ask.submit(ctx, member, rows, data).result() if outside.is_outside(member) else member)
    teachers = config.teachers.model_copy(update={"members": tuple(given)})
    return config.model_copy(update={"teachers": teachers})


def _tracked(member: Teacher) -> tuple[Any, outside.Predict]:
    address = member.options["model"]
    try:
        info = mlflow.models.get_model_info(address)
        model = mlflow.pyfunc.load_model(address)
    except (MlflowException, OSError, ImportError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise InputError(f"teacher {member.name!r}: expected a model at {address!r}, got: {first}") from error

    def predict(raw: Any) -> Any:
        try:
            return model.predict(raw)
        except MlflowException as error:
            first = (str(error).splitlines() or [""])[0]
            raise InputError(f"teacher {member.name!r}: {address} does not take the rows: {first}") from error

    return info.model_uuid, predict
