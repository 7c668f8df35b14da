"""Measures every model on test, and keeps the logits of those that are compared. N rows, C classes."""

from __future__ import annotations

import numpy as np

from distillery.config.experiment import Evaluation
from distillery.ops import metrics
from distillery.ops.pooling import Pooling
from distillery.stages.data.dataset import Dataset
from distillery.stages.ensemble.weight_selection import chosen, label
from distillery.stages.evaluation import comparisons
from distillery.stages.evaluation.costs import CostTable
from distillery.stages.evaluation.inputs import Inputs
from distillery.stages.evaluation.model_logits import ensemble_logits, student_logits
from distillery.stages.evaluation.record import ModelRow, Trained
from distillery.stages.evaluation.robustness import Answers
from distillery.stages.logits.logit_cache import read_logits
from distillery.stages.measurement.record import Costs
from distillery.stages.roles import Role
from distillery.stages.students.final_models import FinalModels
from distillery.stages.students.student_files import StudentRecord, load_student
from distillery.stages.teachers.member_files import load_member
from distillery.stages.teachers.members import Member
from distillery.store import Handle
from distillery.training.single import predict


class MeasuredModels:
    """All models on test, and the logits of those that are compared.

    Attributes:
        labels: Of the test rows [N].
        rows: A row for each model.
        logits: On test [N, C], of student and baselines of the chosen capacity and of the ensemble in use.
        finals: The networks of the chosen capacity.
    """

    def __init__(self, inputs: Inputs, config: Evaluation, costs: CostTable) -> None:
        self.inputs = inputs
        self.config = config
        self.costs = costs
        self.dataset = Dataset(inputs.data)
        self.labels = self.dataset.labels("test")
        self.val_labels = self.dataset.labels("val_search")
        self.members: list[Member] = [load_member(handle, self.dataset) for handle in inputs.members]
        self.pooling = chosen(inputs.ensemble)
        self.finals = next(final for final in inputs.finals if final.capacity == inputs.chosen)
        self.rows: list[ModelRow] = []
        self.logits: dict[Role, np.ndarray] = {}
        self._add_teachers()
        self._add_ensembles()
        self._add_students()

    def _add_teachers(self) -> None:
        for index, handle in enumerate(self.inputs.members):
            on_test = read_logits(self.inputs.test_logits[index])
            on_val = read_logits(self.inputs.val_logits[index])
            self._add(Role.TEACHER, handle.name, on_test, on_val, self.costs.teachers[index])

    def _add_ensembles(self) -> None:
        """The simple average of all members, and the ensemble in use."""
        count = len(self.members)
        uniform = Pooling(np.full(count, 1 / count), "probs")
        used = label(self.inputs.ensemble)
        for name, pooling, costs, is_used in (
            ("uniform", uniform, self.costs.uniform, False),
            (used, self.pooling, self.costs.ensemble, True),
        ):
            on_test = ensemble_logits(pooling, self.inputs.test_logits)
            on_val = ensemble_logits(pooling, self.inputs.val_logits)
            self._add(Role.ENSEMBLE, name, on_test, on_val, costs, chosen=is_used)

    def _add_students(self) -> None:
        """The best network of each role of every capacity."""
        for final in self.inputs.finals:
            for role in (Role.PLAIN, Role.TUNED, Role.STUDENT):
                networks = final.of(role)
                if networks:
                    self._add_student(role, final, networks[0])

    def _add_student(self, role: Role, final: FinalModels, handle: Handle) -> None:
        on_test = self.answers(handle, "test")
        on_val = self.answers(handle, "val_search")
        record = StudentRecord.read(handle)
        self._add(
            role,
            final.capacity,
            on_test,
            on_val,
            self.costs.students[final.capacity],
            chosen=final is self.finals and role is final.candidate,
            is_compared=final is self.finals,
            trained=Trained(
                setting=record.setting,
                recipe=record.recipe,
                calibration_temperature=record.calibration_temperature,
            ),
            **comparisons.fidelity(on_test, self.logits[Role.ENSEMBLE], self.labels),
        )

    def _add(
        self,
        role: Role,
        name: str,
        on_test: np.ndarray,
        on_val: np.ndarray,
        costs: Costs,
        *,
        chosen: bool = False,
        is_compared: bool = False,
        trained: Trained | None = None,
        **fidelity: float | None,
    ) -> None:
        """Adds the row of a model with logits [N, C] on both splits."""
        if chosen or is_compared:
            self.logits[role] = on_test
        on_val_search = metrics.quality(on_val, self.val_labels)
        row = ModelRow(
            role=role,
            name=name,
            chosen=chosen,
            **metrics.quality(on_test, self.labels),
            val_search_accuracy=on_val_search["accuracy"],
            val_search_nll=on_val_search["nll"],
            recall=metrics.recall_by_class(on_test, self.labels),
            trained=trained,
            **fidelity,
            **dict(costs),
        )
        self.rows.append(row)

    def answers(self, student: Handle, split: str) -> np.ndarray:
        """Logits [N, C] of a student or baseline on a split."""
        return student_logits(student, self.dataset, split, self.config.batch_size)

    def row(self, role: Role) -> ModelRow:
        """The row of a compared model."""
        rows = [row for row in self.rows if row.role is role]
        if role is Role.ENSEMBLE:
            return rows[-1]
        return next(row for row in rows if row.name == self.inputs.chosen)

    def runnable(self) -> dict[Role, Answers]:
        """Candidate and ensemble as functions of encoded rows and their ids."""
        role = self.finals.candidate
        network = load_student(self.finals.of(role)[0], self.dataset.spec)
        pooling = self.pooling.narrowed()
        members = [self.members[index] for index in self.pooling.active]

        def candidate(inputs: np.ndarray, _: np.ndarray) -> np.ndarray:
            return predict(network, inputs)

        def ensemble(inputs: np.ndarray, ids: np.ndarray) -> np.ndarray:
            return pooling.apply(np.stack([member.logits(inputs, ids) for member in members]))

        return {role: candidate, Role.ENSEMBLE: ensemble}
