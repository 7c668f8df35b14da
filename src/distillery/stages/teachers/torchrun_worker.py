"""What each process runs that trains one teacher with others; `distillery.training.torchrun` starts them."""

from __future__ import annotations

from pathlib import Path

from distillery.config.experiment import Recipe, Teacher
from distillery.stages.data.dataset import Dataset
from distillery.stages.teachers.label_training import fit_classifiers, validation_on
from distillery.store import Handle
from distillery.training import ranks, torchrun
from distillery.training.fit import OnEpochs, TrainResult
from distillery.training.networks import load_network, save_network


def train(
    teacher: Teacher, recipe: Recipe, seed: int, data: Handle, weights: Path, *, device: str, on_epochs: OnEpochs | None
) -> TrainResult:
    """What became of a teacher; the file holds its initial weights before, and the trained ones afterwards."""
    dataset = Dataset(data)
    network = load_network(teacher.model_dump(), dataset.spec, weights)
    validation = validation_on("val_ensemble", dataset)
    (course,) = fit_classifiers(
        [network], dataset, [recipe], [seed], device=device, validation=validation, on_epochs=on_epochs
    )
    if ranks.rank() == 0:
        save_network(network, weights)
    return course


if __name__ == "__main__":
    torchrun.run_rank(train)
