"""What looks wrong in a member, and what is not known about it: sentences for the report. N rows, C classes."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from distillery.ops.metrics import row_nll
from distillery.stages.data.dataset import Dataset
from distillery.store import Handle

BEYOND_CHANCE = 3.0  # standard errors
MOST_CLASSES = 2000  # of which all pairs are counted
TOO_GOOD = "if rows of val or test are among them, its figures there are too good, and so are the ensemble's"


def member_notes(members: list[Handle], dataset: Dataset) -> list[str]:
    """A sentence for each thing that a reader should know about a member before its figures are believed."""
    notes = []
    for member in members:
        checkpoint = member.json("member.json")["checkpoint"]
        notes += _below_chance(member, dataset)
        if member.file("given.npz").exists():
            with np.load(member.file("given.npz")) as arrays:
                notes += _given(member.name, arrays["logits"], dataset)
        elif checkpoint:
            notes.append(
                f"teacher {member.name!r} starts from weights in {checkpoint!r}, which were trained on "
                f"unknown rows: {TOO_GOOD}"
            )
    return notes


def _below_chance(member: Handle, dataset: Dataset) -> list[str]:
    labels_N = dataset.labels("val_ensemble")
    share = float(np.bincount(labels_N).max() / len(labels_N))
    accuracy = float(member.metrics["accuracy"])
    if accuracy >= share - BEYOND_CHANCE * np.sqrt(share * (1 - share) / len(labels_N)):
        return []
    return [
        f"teacher {member.name!r} is right on {accuracy:.1%} of val_ensemble, below the {share:.1%} that the most "
        "frequent class alone would give: its training has failed, or its rows or columns are in another order than "
        "the data's"
    ]


def _given(name: str, logits_NC: np.ndarray, dataset: Dataset) -> list[str]:
    """Of answers that came from outside: what they may have learned from, and whether their columns are in order."""
    train_N, val_N = (_nll(logits_NC, dataset, split) for split in ("train", "val_ensemble"))
    note = f"teacher {name!r} was trained on unknown rows: {TOO_GOOD}"
    difference = val_N.mean() - train_N.mean()
    error = np.sqrt(val_N.var() / len(val_N) + train_N.var() / len(train_N))
    figures = f"its NLL is {train_N.mean():.4f} on train and {val_N.mean():.4f} on val_ensemble"
    if difference > BEYOND_CHANCE * error:
        note += f"; {figures}, as of a model that learned from train and not from val_ensemble"
    elif difference < -BEYOND_CHANCE * error:
        note += f"; {figures}, as of a model that learned from val_ensemble"
    return [note, *_out_of_order(name, logits_NC, dataset)]


def _nll(logits_NC: np.ndarray, dataset: Dataset, split: str) -> np.ndarray:
    return row_nll(logits_NC[dataset.splits[split]], dataset.labels(split))


def _out_of_order(name: str, logits_NC: np.ndarray, dataset: Dataset) -> list[str]:
    """Whether another order of the columns is right much more often, found on one half of train, tried on the other."""
    rows, classes = dataset.splits["train"], logits_NC.shape[1]
    if classes > MOST_CLASSES:
        return []
    top_N, labels_N = logits_NC[rows].argmax(-1), dataset.labels("train")
    counts_CC = np.zeros((classes, classes), np.int64)
    np.add.at(counts_CC, (top_N[::2], labels_N[::2]), 1)
    _, order = linear_sum_assignment(counts_CC, maximize=True)
    as_they_are = (top_N[1::2] == labels_N[1::2]).mean()
    in_order = (order[top_N[1::2]] == labels_N[1::2]).mean()
    error = np.sqrt(in_order * (1 - in_order) / max(1, len(labels_N[1::2])))
    if in_order < 2 * as_they_are or in_order - as_they_are <= BEYOND_CHANCE * error:
        return []
    return [
        f"teacher {name!r} is right on {as_they_are:.1%} of rows of train, and with its columns in another order on "
        f"{in_order:.1%}: they are probably not in the order of the sorted class names; name the columns"
    ]
