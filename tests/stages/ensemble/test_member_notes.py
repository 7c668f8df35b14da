"""What is said about a member before its figures are believed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax
from tiny_chain import Chain

from distillery.config.experiment import Ensemble, Recipe, Teacher, Weighting
from distillery.stages.ensemble.member_notes import member_notes
from distillery.stages.ensemble.record import EnsembleChoice
from distillery.stages.ensemble.weight_selection import optimize_weights
from distillery.stages.logits.logit_cache import cache_logits
from distillery.stages.teachers.teacher_training import train_teachers
from distillery.store import Handle, Store, write_json

UNKNOWN = (
    "teacher 'theirs' was trained on unknown rows: if rows of val or test are among them, its figures there are too "
    "good, and so are the ensemble's"
)


def teacher_with(logits: np.ndarray, chain: Chain, store: Store, folder: Path) -> Handle:
    """A teacher with these logits."""
    np.savez(folder / "theirs.npz", logits=logits)
    teacher = Teacher(name="theirs", family="given", path=str(folder / "theirs.npz"))
    return train_teachers(["theirs"], teacher, Recipe(), 0, chain.data, store)[0]


def answers(chain: Chain, known: tuple[str, ...]) -> np.ndarray:
    """Logits [900, 3] that are right more often by chance, and more so on the rows of some splits."""
    labels, splits = np.load(chain.data.file("labels.npy")), chain.dataset.splits
    logits = np.random.default_rng(0).normal(size=(900, 3)) + np.eye(3)[labels]
    for split in known:
        logits[splits[split]] += 4 * np.eye(3)[labels[splits[split]]]
    return log_softmax(logits, axis=-1).astype(np.float32)


SPLITS = ("train", "val_ensemble", "val_search", "test")
LEARNED = {
    (): "$",
    SPLITS: "$",
    ("train",): r"; its NLL is 0\.\d+ on train and \d\.\d+ on val_ensemble, as of .* train and not from val_ensemble$",
    ("val_ensemble", "test"): r"; its NLL is \d\.\d+ on train and 0\.\d+ on val_ensemble, as of .* from val_ensemble$",
}


@pytest.mark.parametrize("known", LEARNED)
def test_what_a_given_teacher_may_have_learned_is_told(
    chain: Chain, store: Store, tmp_path: Path, known: tuple[str, ...]
) -> None:
    """golden: it is always said that its rows are unknown; more only where train and val_ensemble differ."""
    member = teacher_with(answers(chain, known), chain, store, tmp_path)
    (note,) = member_notes([member], chain.dataset)
    assert re.fullmatch(re.escape(UNKNOWN) + LEARNED[known].removesuffix("$"), note)


def test_trained_members_are_not_talked_about(chain: Chain) -> None:
    """contract: networks that learned from train and are right more often than chance have no note."""
    assert member_notes(chain.members, chain.dataset) == []
    assert EnsembleChoice.read(chain.ensemble).notes == []


def test_weights_from_a_file_are_told(chain: Chain, tmp_path: Path) -> None:
    """contract: the teacher and the file that it started from are named."""
    write_json(tmp_path / "member.json", {"checkpoint": "theirs.safetensors"})
    member = replace(chain.members[0], path=str(tmp_path))
    (note,) = member_notes([member], chain.dataset)
    assert note.startswith(
        "teacher 'mlp-00' starts from weights in 'theirs.safetensors', which were trained on unknown"
    )


def test_columns_in_another_order_are_noticed(chain: Chain, store: Store, tmp_path: Path) -> None:
    """golden: a good teacher whose columns are turned is below chance and right in another order; noise is neither."""
    good = answers(chain, SPLITS)
    turned = teacher_with(good[:, [1, 2, 0]], chain, store, tmp_path)
    below, unknown, out_of_order = member_notes([turned], chain.dataset)
    assert "that the most frequent class alone would give" in below and unknown == UNKNOWN
    assert "with its columns in another order on 100.0%" in out_of_order and "name the columns" in out_of_order
    noise = teacher_with(np.random.default_rng(1).normal(size=(900, 3)).astype(np.float32), chain, store, tmp_path)
    assert member_notes([noise], chain.dataset) == [UNKNOWN]


def test_notes_stand_in_the_ensembles_file(chain: Chain, store: Store, tmp_path: Path) -> None:
    """contract: beside the table, for the report."""
    member = teacher_with(answers(chain, ()), chain, store, tmp_path)
    on_val = cache_logits(member, "val_ensemble", chain.data, chain.config.logits, store)
    config = Ensemble(weightings=(Weighting(name="uniform"),), pools=("probs",))
    handle = optimize_weights([member], [on_val], chain.data, config, store)
    assert EnsembleChoice.read(handle).notes == [UNKNOWN]
