"""The transfer set: which items an epoch shows, what they look like, and which of them have a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from distillery.config.data import Data
from distillery.config.experiment import Views
from distillery.errors import InputError
from distillery.ops.counter_rng import CounterRNG
from distillery.sources import Rows
from distillery.stages.data import transfer_set as module
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preparation import prepare
from distillery.stages.data.transfer_set import Transfer, check_views, show, transfer_rows
from distillery.store import Store
from distillery.views import VIEWS

LABELLED, UNLABELLED, TRAIN = 260, 70, 150
SPLIT = {"train": TRAIN, "val_ensemble": 30, "val_search": 30, "test": 50}
SHIFTS = Views(count=4, transforms=[{"name": "shift", "size": 0.25}, {"name": "flip"}], seed=3)
NOISE = Views(count=3, transforms=[{"name": "noise"}, {"name": "spunge", "columns": 0.5}], seed=5)
PATCHES = Views(count=3, transforms=[{"name": "cutmix"}])
CASES = {
    f"{v.transforms[0].name} {unlabelled}": (kind, v, unlabelled)
    for kind, v in (("image", SHIFTS), ("table", NOISE))
    for unlabelled in (0, UNLABELLED)
}


def made(kind: str, unlabelled: int, folder: Path) -> Dataset:
    """Random rows of two classes; those without a label stand between the others."""
    generator = np.random.default_rng(4)
    total = LABELLED + unlabelled
    hidden = np.zeros(total, bool)
    hidden[generator.permutation(total)[:unlabelled]] = True
    labels = np.where(hidden, "", generator.choice(["a", "b"], total))
    missing = hidden if unlabelled else None
    if kind == "image":
        pixels = generator.integers(0, 256, (total, 8, 8, 1), np.uint8)
        rows = Rows("image", labels, f"image {unlabelled}", unlabeled=missing, read=pixels.__getitem__, channels=1)
        return Dataset(prepare(Data(source="digits", image_size=8, split=SPLIT), rows, Store(folder)))
    frame = pd.DataFrame({"x": generator.normal(size=total), "y": generator.choice(["u", "v"], total)})
    rows = Rows("table", labels, f"table {unlabelled}", unlabeled=missing, frame=frame)
    return Dataset(prepare(Data(source="sklearn", dataset="wine", split=SPLIT), rows, Store(folder)))


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Dataset]:
    """Images and a table, each with and without unlabelled rows."""
    folder = tmp_path_factory.mktemp("transfer")
    return {(k, u): made(k, u, folder) for k in ("image", "table") for u in (0, UNLABELLED)}


Datasets = dict[tuple[str, int], Dataset]


def dealt(transfer: Transfer, epoch: int, seed: int = 0) -> np.ndarray:
    """Items of an epoch."""
    return transfer.order(epoch, torch.Generator().manual_seed(seed)).numpy()


def test_the_rows_are_those_of_train_and_the_unlabelled_ones(datasets: Datasets) -> None:
    """contract: train in its order, then rows without a label, none of which is in a split."""
    for (_, unlabelled), dataset in datasets.items():
        rows = transfer_rows(dataset)
        assert np.array_equal(rows[:TRAIN], dataset.splits["train"]) and len(rows) == TRAIN + unlabelled
        assert len(np.unique(rows)) == len(rows)
        assert not np.isin(rows, np.concatenate([dataset.splits[n] for n in ("val_search", "test")])).any()


@pytest.mark.parametrize("case", CASES)
def test_view_0_is_the_row_and_the_others_go_through_the_transforms(datasets: Datasets, case: str) -> None:
    """reference: transforms by hand, one after the other, each with draws of its own; any mix of views in a batch."""
    kind, views, unlabelled = CASES[case]
    dataset = datasets[kind, unlabelled]
    rows = transfer_rows(dataset)[::7]
    numbers = np.arange(len(rows)) % views.count
    found = show(dataset, views, rows, numbers)
    for place, (row, number) in enumerate(zip(rows, numbers, strict=True)):
        expected = dataset.inputs[[row]]
        for index, transform in enumerate(views.transforms if number else ()):
            draws = CounterRNG(np.array([7 * place]), np.array([number]), views.seed * 64 + index)
            expected = VIEWS[transform.name](expected, draws, dataset.pool, **transform.options)
        assert np.array_equal(found[[place]], expected)
    other = views.model_copy(update={"seed": views.seed + 1})
    assert np.array_equal(show(dataset, other, rows, numbers)[numbers == 0], found[numbers == 0])
    assert not np.array_equal(show(dataset, other, rows, numbers)[numbers > 0], found[numbers > 0])


@pytest.mark.parametrize("case", CASES)
def test_items_are_the_views_one_after_the_other(
    datasets: Datasets, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """contract: item v · N + p is view v of the row at place p, in memory or made by the batch."""
    kind, views, unlabelled = CASES[case]
    dataset = datasets[kind, unlabelled]
    rows = transfer_rows(dataset)
    expected = np.concatenate([show(dataset, views, rows, np.full(len(rows), v)) for v in range(views.count)])
    items = torch.randperm(len(expected), generator=torch.Generator().manual_seed(0))[:300]
    resident, shared, streamed = (Transfer(dataset, views) for _ in range(3))
    kept = resident.load()
    assert kept is not None and np.array_equal(kept.numpy(), expected)
    assert shared.load(kept) is kept
    monkeypatch.setattr(module, "resident_bytes", lambda device: expected.nbytes - 1)
    assert streamed.load() is None
    for transfer in (resident, shared, streamed):
        batch = transfer.take(items)
        assert batch.numpy().dtype == expected.dtype and np.array_equal(batch.numpy(), expected[items.numpy()])


@pytest.mark.parametrize("case", CASES)
def test_the_order_is_a_function_of_seed_and_epoch(datasets: Datasets, case: str) -> None:
    """determinism: neither earlier epochs nor another instance change it; another seed or epoch gives another order.

    What stands in for a row does not depend on the generator, which shuffles alone.
    """
    kind, views, unlabelled = CASES[case]
    used, fresh = (Transfer(datasets[kind, unlabelled], views) for _ in range(2))
    first = [dealt(used, epoch) for epoch in range(1, 5)]
    assert np.array_equal(dealt(fresh, 4), first[3])
    assert all(len(f) == len(used) == TRAIN for f in first)
    shuffled = dealt(used, 4, seed=1)
    assert not np.array_equal(shuffled, first[3]) and np.array_equal(np.sort(shuffled), np.sort(first[3]))
    assert len({tuple(np.sort(f)) for f in first}) == 4
    other = Transfer(datasets[kind, unlabelled], views.model_copy(update={"seed": 99}))
    assert not np.array_equal(np.sort(dealt(other, 4)), np.sort(first[3]))


@pytest.mark.parametrize("first", [1, 6])
def test_views_that_keep_the_label_take_turns(datasets: Datasets, first: int) -> None:
    """property: in `count` epochs on end each row shows every view once; in one epoch the views are about equal."""
    transfer = Transfer(datasets["image", 0], SHIFTS)
    epochs = [np.sort(dealt(transfer, first + k) % TRAIN) for k in range(4)]
    assert all(np.array_equal(places, np.arange(TRAIN)) for places in epochs)
    together = np.sort(np.concatenate([dealt(transfer, first + k) for k in range(4)]))
    assert np.array_equal(together, np.arange(4 * TRAIN))
    assert stats.chisquare(np.bincount(dealt(transfer, first) // TRAIN, minlength=4)).pvalue > 0.001


def test_labelled_rows_keep_their_turn_beside_unlabelled_ones(datasets: Datasets) -> None:
    """property: with unlabelled rows in between, a row's view still is the epoch's turn, counted from its own start."""
    transfer = Transfer(datasets["image", UNLABELLED], SHIFTS)
    starts: dict[int, set[int]] = {}
    for epoch in range(1, 40):
        for item in dealt(transfer, epoch):
            view, place = divmod(int(item), TRAIN + UNLABELLED)
            if place < TRAIN:
                starts.setdefault(place, set()).add((view - epoch) % 4)
    assert len(starts) == TRAIN and all(len(s) == 1 for s in starts.values())
    assert {next(iter(s)) for s in starts.values()} == {0, 1, 2, 3}


SHARES = [("table", NOISE, 0), ("image", PATCHES, 0), ("table", NOISE, UNLABELLED), ("image", SHIFTS, UNLABELLED)]


@pytest.mark.parametrize("share", [None, 0.0, 0.25, 1.0])
@pytest.mark.parametrize(("kind", "views", "unlabelled"), SHARES, ids=[f"{k} {v.count} {u}" for k, v, u in SHARES])
def test_the_share_of_items_without_a_label(
    datasets: Datasets, kind: str, views: Views, unlabelled: int, share: float | None
) -> None:
    """property: as many items as asked for have no label, one half unless told; all such rows and views occur."""
    dataset = datasets[kind, unlabelled]
    transfer = Transfer(dataset, views, share)
    total = TRAIN + unlabelled
    _, known = transfer.answers(torch.zeros(views.count * total, 2))
    items = np.concatenate([dealt(transfer, epoch) for epoch in range(1, 60)])
    soft = ~known.numpy()[items]
    wanted = 0.5 if share is None else share
    assert abs(soft.mean() - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / len(items))
    if unlabelled and wanted:
        assert set(range(TRAIN, total)) <= set(items[soft] % total)
    if wanted:
        assert set(range(1, views.count)) <= set(items[soft] // total)
    if not soft.all():
        assert set(items[~soft] % total) == set(range(TRAIN))


def test_one_view_and_no_unlabelled_rows_are_train(datasets: Datasets) -> None:
    """golden: without views an epoch is a shuffle of train, whatever the share."""
    for share in (None, 0.7):
        transfer = Transfer(datasets["table", 0], Views(), share)
        assert np.array_equal(np.sort(dealt(transfer, 1)), np.arange(TRAIN))
        assert transfer.answers(torch.zeros(TRAIN, 2))[1].all()


@pytest.mark.parametrize(("case", "keeps"), [*((c, "shift" in c) for c in CASES)])
def test_answers_are_labels_where_they_hold(datasets: Datasets, case: str, keeps: bool) -> None:
    """reference: a loop over views and places; the ensemble's top class stands in where no label holds."""
    kind, views, unlabelled = CASES[case]
    dataset = datasets[kind, unlabelled]
    transfer = Transfer(dataset, views)
    logits = torch.randn(views.count * (TRAIN + unlabelled), 2, generator=torch.Generator().manual_seed(0))
    classes, known = transfer.answers(logits)
    labels, item = dataset.labels("train"), 0
    for view in range(views.count):
        for place in range(TRAIN + unlabelled):
            holds = place < TRAIN and (keeps or view == 0)
            assert bool(known[item]) == holds
            assert int(classes[item]) == (labels[place] if holds else int(logits[item].argmax()))
            item += 1
    assert item == len(classes) == len(known) and classes.dtype == torch.int64


def test_one_transform_that_changes_the_label_is_enough(datasets: Datasets) -> None:
    """property: behind a flip, cutmix still takes the label of every view but the first."""
    views = Views(count=2, transforms=[{"name": "flip"}, {"name": "cutmix"}])
    _, known = Transfer(datasets["image", 0], views).answers(torch.zeros(2 * TRAIN, 2))
    assert known.tolist() == [True] * TRAIN + [False] * TRAIN


def test_views_are_tried_before_anything_trains(datasets: Datasets) -> None:
    """contract: a transform that does not take the table is an InputError; what fits passes in silence."""
    gmm = Views(count=2, transforms=[{"name": "noise"}, {"name": "gmm"}])
    with pytest.raises(InputError, match="view 'gmm': expected a table of numbers"):
        check_views(datasets["table", 0], gmm)
    for kind, views in (("table", NOISE), ("table", Views()), ("image", SHIFTS), ("image", PATCHES)):
        check_views(datasets[kind, 0], views)


def test_all_items_without_a_label_are_shown_alike(datasets: Datasets) -> None:
    """property: unlabelled rows and changed rows get turns in proportion to their numbers, labelled ones the rest."""
    transfer = Transfer(datasets["table", UNLABELLED], NOISE, unlabeled_fraction=0.6)
    items = np.concatenate([dealt(transfer, epoch) for epoch in range(1, 201)])
    views, places = items // len(transfer.rows), items % len(transfer.rows)
    unlabelled, changed = places >= TRAIN, (places < TRAIN) & (views > 0)
    total = NOISE.count * UNLABELLED + (NOISE.count - 1) * TRAIN
    assert (unlabelled | changed).mean() == pytest.approx(0.6, abs=0.02)
    assert unlabelled.mean() == pytest.approx(0.6 * NOISE.count * UNLABELLED / total, abs=0.02)
    assert changed.any() and len(set(views[unlabelled])) == NOISE.count
