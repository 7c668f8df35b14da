"""Logits of finished models on a split, made part by part. N rows, C classes."""

from __future__ import annotations

import numpy as np

from distillery.ops.pooling import Pooling
from distillery.ops.sampling import PART_BYTES, in_parts
from distillery.stages.data.dataset import Dataset
from distillery.stages.logits.logit_cache import reader_of
from distillery.stages.logits.logit_store import ahead
from distillery.stages.students.student_files import held_out_logits, load_student
from distillery.store import Handle
from distillery.training.single import predict


def student_logits(student: Handle, dataset: Dataset, split: str, batch_size: int) -> np.ndarray:
    """Logits float32 [N, C] of a student or baseline on a split, whose inputs are read part by part.

    To rows that it has learned, those that answer in its stead have not learned them.
    """
    if split != "test" and dataset.search_by_folds:
        return held_out_logits(student)
    network, ids = load_student(student, dataset.spec), dataset.splits[split]
    logits = np.empty((len(ids), dataset.spec.classes), np.float32)
    for places in in_parts(np.arange(len(ids)), dataset.spec.shape):
        logits[places] = predict(network, dataset.inputs[ids[places]], batch_size=batch_size)
    return logits


def ensemble_logits(pooling: Pooling, members: list[Handle]) -> np.ndarray:
    """Logits float32 [N, C] of an ensemble on the split that all members' cached logits cover, block by block.

    Args:
        pooling: How the members are pooled.
        members: Stage `logits` of each member, also of those that do not count.
    """
    readers, narrowed = [reader_of(members[place]) for place in pooling.active], pooling.narrowed()
    first = readers[0]
    pooled = np.empty((first.rows, first.classes), np.float32)
    block_rows = max(1, PART_BYTES // (8 * len(readers) * first.classes))
    for _, start, block in ahead(readers, block_rows):
        pooled[start : start + block.shape[1]] = narrowed.apply(block)
    return pooled
