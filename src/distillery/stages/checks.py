"""Everything about a config that can be wrong for its data, looked at before anything trains."""

from __future__ import annotations

from distillery.config.experiment import Experiment
from distillery.errors import InputError
from distillery.models import MODELS
from distillery.ops.encodings import encoding_of
from distillery.sources import Rows
from distillery.stages.data import dataset, preparation, transfer_set
from distillery.stages.distillation import soft_losses
from distillery.stages.ensemble import weight_selection
from distillery.stages.evaluation import evaluation
from distillery.stages.teachers import model_check
from distillery.store import Handle, Store
from distillery.training.stack_size import stacks


def prepare_and_check(config: Experiment, rows: Rows, store: Store) -> Handle:
    """Stage `data`, after every model, loss and option of the config was tried on it.

    Raises:
        InputError: Something does not fit the data.
    """
    handle = preparation.prepare(config.data, rows, store)
    opened = dataset.Dataset(handle)
    spec = opened.spec
    count = len(config.teachers.each())
    weight_selection.candidates(
        config.ensemble, count, spec.classes, len(opened.labels("val_ensemble")), folds=opened.folds is not None
    )
    if opened.folds is not None:
        _check_folds(config, opened.search_by_folds)
    if opened.search_by_folds:
        _check_stacks(config, spec.kind)
    for name, member, _ in config.teachers.each():
        model_check.check_model(member, spec, f"teacher {name!r}", len(rows), opened.classes)
    for capacity in config.student.capacities:
        model_check.check_model(capacity, spec, f"student {capacity.name!r}", len(rows))
    for where, loss in _losses(config):
        soft_losses.check_loss(loss, spec.classes, where)
    encoding_of(config.logits.dtype, config.logits.top, spec.classes)
    evaluation.check_groups(config.evaluation.groups, rows)
    transfer_set.check_views(opened, config.student.views)
    return handle


def _check_stacks(config: Experiment, kind: str) -> None:
    """Refuses small networks that cannot train side by side where they are judged by folds."""
    for place, capacity in enumerate(config.student.capacities):
        if not stacks(capacity, kind):
            raise InputError(
                f"student.capacities.{place} ({capacity.name}): where students are judged by folds, expected a family "
                f"whose networks train together, such as mlp, got {capacity.family!r}; set "
                "data.split.search_folds_up_to: 0"
            )


def _check_folds(config: Experiment, by_students: bool) -> None:
    """Refuses answers from elsewhere that may be by models that have learned the rows that they answer."""
    for index, member in enumerate(config.teachers.members):
        outside = bool(MODELS.traits(member.family).get("outside"))
        given = member.family == "given"
        if given and member.options["out_of_fold"] and by_students:
            raise InputError(
                f"teachers.members.{index} ({member.name}): where students are judged by folds, teachers that have not "
                "seen the rows of a fold must label all other rows, which given answers cannot; set "
                "data.split.search_folds_up_to: 0"
            )
        if outside or (given and not member.options["out_of_fold"]):
            remedy = "data.split.folds: null" if outside else "out_of_fold: true if they are, or data.split.folds: null"
            raise InputError(
                f"teachers.members.{index} ({member.name}): with data.split.folds, the ensemble weights are fitted on "
                f"rows of train; expected answers by models that have not learned these rows, got answers of which "
                f"that is not known; set {remedy}"
            )


def _losses(config: Experiment) -> list[tuple[str, str]]:
    """(where, name) of every soft loss that the config names."""
    searched = [(f"search.losses.{index}", loss.name) for index, loss in enumerate(config.search.losses)]
    return searched or [("student.loss", config.student.loss.name)]
