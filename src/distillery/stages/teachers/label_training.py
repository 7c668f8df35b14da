"""Trains networks on the labels of train, which teachers and baselines share. N rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import log_softmax
from torch import nn

from distillery.config.experiment import Recipe
from distillery.stages.data.dataset import Dataset
from distillery.training.feed import Batches, Inputs, Part
from distillery.training.fit import OnEpochs, TrainJob, TrainResult, Validation, fit, of_each
from distillery.training.objectives import Answers, Labels


def fit_classifiers(
    networks: Sequence[nn.Module],
    dataset: Dataset,
    recipes: Sequence[Recipe],
    seeds: Sequence[int],
    *,
    parts: Sequence[np.ndarray] | None = None,
    device: str = "cpu",
    validation: Validation | None = None,
    on_epochs: OnEpochs | None = None,
) -> list[TrainResult]:
    """Trains `networks` together on the labels of train by cross-entropy.

    With `parts`, each network is shown the rows of train at its own places; those of the shortest part are an epoch.
    """
    inputs = Inputs(dataset.inputs, dataset.splits["train"], device)
    batches: list[Batches] = [inputs] * len(networks)
    if parts is not None:
        length = min(map(len, parts))
        batches = [Part(inputs, places, length) for places in parts]
    learners = [TrainJob(*each) for each in zip(networks, recipes, seeds, batches, strict=True)]
    labels = torch.from_numpy(dataset.labels("train")).to(device)
    objective = Labels(Answers(labels, None, dataset.spec.classes), [r.label_smoothing for r in recipes])
    return fit(learners, objective, device=device, validation=validation, on_epochs=on_epochs)


def validation_on(split: str, dataset: Dataset) -> Validation:
    """Accuracy and NLL on a validation split after every epoch: ``{split}/accuracy`` and ``{split}/nll``."""
    assert split != "test"
    labels = dataset.labels(split)

    def measure(logits: np.ndarray) -> dict[str, float]:
        log_probs = log_softmax(logits.astype(np.float64), axis=-1)
        nll = -log_probs[np.arange(len(labels)), labels].mean()
        return {f"{split}/accuracy": float((log_probs.argmax(-1) == labels).mean()), f"{split}/nll": float(nll)}

    return Validation(dataset.inputs, of_each(measure), rows=dataset.splits[split])
