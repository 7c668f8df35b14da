"""A registered model as MLflow serves it: the exported student, and the code that reads raw rows as training did.

MLflow runs this file where the model is loaded. It finds the package `distillery.serving` beside itself, under a name
of its own, and needs neither distillery nor a pickle.
"""

from __future__ import annotations

import importlib
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class ServedStudent(PythonModel):
    """Raw rows of a table, or images -> ``label`` and the probability of each class."""

    def load_context(self, context: PythonModelContext) -> None:
        """Opens the student."""
        self._reader = importlib.import_module(f"{context.model_config['package']}.answers")
        self._answers = self._reader.Answers.open(context.artifacts["student"])

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None) -> Any:
        """A row of answers for each row of a table; for images, the answers as arrays by name.

        MLflow checks nothing against this type, so that the reading code sees what was asked as it is.
        """
        try:
            return self._answers.of_request(model_input)
        except self._reader.CellError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


set_model(ServedStudent())
