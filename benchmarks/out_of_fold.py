"""What out-of-fold targets are worth: students of a single forest, with its answers in-sample and out-of-fold.

    python benchmarks/out_of_fold.py [--tables 12] [--rows 600]

The tables are drawn at random, with a fifth of the labels wrong. Each student is trained twice with the same rows,
views, setting and seed: on the answers of a forest that has learned all training rows, and on those of five forests,
each to the rows that it has not learned. Both are calibrated on held out rows, as the product's students are.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import t

from distillery.config.data import Data
from distillery.config.experiment import Capacity, Ensemble, Logits, Recipe, Student, Teacher, View, Views
from distillery.config.search_space import Setting
from distillery.ops.metrics import quality
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preparation import prepare, read_source
from distillery.stages.distillation.distill import Targets, distil
from distillery.stages.distillation.held_out import HeldOut
from distillery.stages.ensemble.weight_selection import optimize_weights
from distillery.stages.logits.logit_cache import cache_logits
from distillery.stages.teachers.teacher_training import train_teachers
from distillery.store import Handle, Store
from distillery.training.networks import build_network
from distillery.training.single import predict

FOREST = Teacher(
    name="forest",
    family="sklearn",
    estimator="sklearn.ensemble.RandomForestClassifier",
    params={"n_estimators": 100},
)
CAPACITY = Capacity(name="mlp-24", family="mlp", hidden=[24, 24], bins=16)
SETTING = Setting(temperature=1.0, alpha=1.0, lr=0.004, weight_decay=0.1, unlabeled_fraction=0.5)
RECIPE = Recipe(epochs=100, batch_size=128, min_steps=4)
VIEWS = Views(count=6, transforms=(View(name="spunge", columns=0.2, noise=0.0),))
HELD_OUT, TEST = 60, 2000


def main() -> None:
    """Prints both NLLs of each table, and the mean difference with its 95 % interval over tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=12)
    parser.add_argument("--rows", type=int, default=600, help="training rows of a table")
    given = parser.parse_args()
    found = []
    for seed in range(given.tables):
        in_sample, out_of_fold = student_nll(seed, given.rows, None), student_nll(seed, given.rows, 5)
        found.append(in_sample - out_of_fold)
        print(f"table {seed}: NLL on test {in_sample:.4f} in-sample, {out_of_fold:.4f} out-of-fold", flush=True)
    mean, error = np.mean(found), np.std(found, ddof=1) / np.sqrt(len(found))
    reach = t.ppf(0.975, len(found) - 1) * error
    print(f"out-of-fold targets lower the student's NLL by {mean:.4f} [{mean - reach:.4f}, {mean + reach:.4f}]")


def student_nll(seed: int, rows: int, folds: int | None) -> float:
    """NLL on test of a student of the forest; with `folds`, of its answers to rows that it has not learned."""
    # The same rows in train and in test, with folds and without.
    sizes = {"val_search": 2 * HELD_OUT} if folds else {"val_ensemble": HELD_OUT, "val_search": HELD_OUT}
    split = {"order": "ordered", "folds": folds, "train": rows, "test": TEST, **sizes}
    config = Data(
        source="make_classification",
        rows=rows + 2 * HELD_OUT + TEST,
        random_state=seed,
        features=10,
        informative=6,
        redundant=2,
        clusters_per_class=2,
        classes=3,
        flip_y=0.2,
        split=split,
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        data = prepare(config, read_source(config), store)
        return _taught(data, store, seed)


def _taught(data: Handle, store: Store, seed: int) -> float:
    dataset = Dataset(data)
    logits = Logits(dtype="float32")
    members = train_teachers(["forest"], FOREST, RECIPE, seed, data, store)
    on_val = [cache_logits(member, "val_ensemble", data, logits, store) for member in members]
    ensemble = optimize_weights(members, on_val, data, Ensemble(), store)
    taught = [cache_logits(member, "transfer", data, logits, store, views=VIEWS) for member in members]
    student = Student(capacities=(CAPACITY,), recipe=RECIPE, views=VIEWS)
    network = build_network(CAPACITY, dataset.spec, seed)
    targets = Targets.load(data, VIEWS, ensemble, taught)
    distil([network], dataset, targets, [SETTING], [seed], student, RECIPE)
    held_out = HeldOut(dataset)
    temperature = held_out.temperature(predict(network, dataset.inputs, held_out.rows))
    logits = predict(network, dataset.inputs, dataset.splits["test"]) / temperature
    return quality(logits, dataset.labels("test"))["nll"]


if __name__ == "__main__":
    main()
