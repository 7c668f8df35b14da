"""The transfer set: everything the teachers label and the student is shown.

Its rows are those of train, then the unlabelled ones; each is there in `count` views, of which view 0 is the row
itself. Item ``v · rows + p`` is view v of the row at place p. V views, N rows, B batch.
"""

from __future__ import annotations

import numpy as np
import torch

from distillery.config.experiment import Views
from distillery.devices import is_cuda
from distillery.memory import blocks, resident_bytes
from distillery.ops.counter_rng import CounterRNG
from distillery.stages.data.dataset import Dataset
from distillery.views import VIEWS

BLOCK_ROWS = 1 << 14
ORDER_KEY = 1 << 20  # the stream that deals views out to epochs; transforms use 0, 1, 2, ...


def transfer_rows(dataset: Dataset) -> np.ndarray:
    """Row ids of the transfer set [N]: train, then unlabelled."""
    return np.concatenate([dataset.splits["train"], dataset.unlabeled])


def show(dataset: Dataset, config: Views, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """View ``numbers[i]`` of row ``rows[i]``, encoded as the source's inputs [B, ...].

    Rows in views other than 0 are of the transfer set; their place in it decides what is drawn.
    """
    inputs = np.asarray(dataset.inputs[rows])
    changed = np.flatnonzero(numbers)
    if len(changed):
        inputs = inputs.copy()
        shown = inputs[changed]
        for index, transform in enumerate(config.transforms):
            draws = CounterRNG(dataset.places[rows[changed]], numbers[changed], config.seed * 64 + index)
            shown = VIEWS[transform.name](shown, draws, dataset.pool, **transform.options)
        inputs[changed] = shown
    return inputs


def check_views(dataset: Dataset, config: Views) -> None:
    """Makes one batch of views, before anything trains.

    Raises:
        InputError: A transform does not take these data.
    """
    rows = dataset.splits["train"][:2]
    show(dataset, config, rows, np.full(len(rows), config.count - 1))


class Transfer:
    """The transfer set as training inputs: which items an epoch shows, and what they look like.

    Args:
        dataset: Where the rows are.
        config: Number of views and their transforms.
        unlabeled_fraction: Share of an epoch's items that have no label (unlabelled rows, and views that do not keep
            it); None for an equal turn of all views where they keep the label, else one half.
        device: Where batches go.
        without: The fold that is left out; its items are numbered after those of the whole set, block by block, so that
            targets of all folds may lie one after another.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: Views,
        unlabeled_fraction: float | None = None,
        device: str = "cpu",
        without: int | None = None,
    ) -> None:
        self.dataset, self.config, self.device = dataset, config, device
        self.rows = transfer_rows(dataset)
        self.labelled = len(dataset.splits["train"])
        self.own = dataset.places_without(() if without is None else (without,))
        self.length = len(self.own)
        if without is not None:
            folds = range(dataset.fold_count)
            self.length = min(len(dataset.places_without((fold,))) for fold in folds)
        self.block = 0 if without is None else 1 + without
        self.keeps = all(VIEWS.traits(t.name)["keeps_label"] for t in config.transforms)
        self.unlabeled_fraction = 0.5 if unlabeled_fraction is None else unlabeled_fraction
        self.cycles = config.count > 1 and self.keeps and (unlabeled_fraction is None or len(self.rows) > self.labelled)
        self._resident: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.length

    def load(self, resident: torch.Tensor | None = None) -> torch.Tensor | None:
        """All items [V · N, ...], kept in memory from now on if they fit; `resident` are those of an equal set."""
        size = self.config.count * len(self.rows) * self.dataset.inputs[:1].nbytes
        if resident is None and size <= resident_bytes(self.device):
            resident = self._shown()
        self._resident = resident
        return resident

    def _shown(self) -> torch.Tensor:
        """All items, made block by block: a view needs several times its own size while it is made."""
        pixels = self.dataset.inputs
        shape = (len(self.views), len(self.rows), *pixels.shape[1:])
        if is_cuda(self.device):
            dtype = torch.uint8 if pixels.dtype == np.uint8 else torch.float32
            shown = torch.empty(shape, dtype=dtype, device=self.device)
        else:
            shown = torch.from_numpy(np.empty(shape, pixels.dtype))
        for view in self.views:
            for part in blocks(len(self.rows), pixels[:1].nbytes, BLOCK_ROWS):
                rows = self.rows[part]
                block = show(self.dataset, self.config, rows, np.full(len(rows), view))
                shown[view, part] = torch.from_numpy(block).to(self.device)
        return shown.flatten(0, 1)

    @property
    def views(self) -> range:
        """The view numbers."""
        return range(self.config.count)

    def order(self, epoch: int, generator: torch.Generator) -> torch.Tensor:
        """Items of an epoch in the order of training, one for each labelled row that is not left out.

        Which view of a row, or which unlabelled row in its place, depends on the epoch and the place alone.
        """
        shuffled = torch.randperm(len(self.own), generator=generator).numpy()
        places = self.own[shuffled[: self.length]]
        draws = CounterRNG(places, np.full(len(places), epoch), ORDER_KEY + self.config.seed)
        numbers = np.zeros(len(places), np.int64)
        if self.cycles:
            still = CounterRNG(places, np.zeros_like(places), ORDER_KEY + self.config.seed)
            numbers = (still.below(0, self.config.count) + epoch - 1) % self.config.count
        other = draws.uniform(1) < self.unlabeled_fraction
        unseen, own = self.config.count * (len(self.rows) - self.labelled), 0
        if not self.cycles:
            own = (self.config.count - 1) * self.labelled
        # Items without a label are taken alike, whether they are unlabelled rows or changed ones.
        strange = other & (draws.uniform(4) * (unseen + own) < unseen)
        changed = other & ~strange & (own > 0)
        numbers = np.where(changed, 1 + draws.below(3, max(1, self.config.count - 1)), numbers)
        numbers = np.where(strange, draws.below(3, self.config.count), numbers)
        places = np.where(strange, self.labelled + draws.below(2, max(1, len(self.rows) - self.labelled)), places)
        return torch.from_numpy(self.block * self._whole + numbers * len(self.rows) + places)

    @property
    def _whole(self) -> int:
        """Items of the whole set."""
        return self.config.count * len(self.rows)

    def take(self, items: torch.Tensor) -> torch.Tensor:
        """Batch [B, ...], uint8 pixels or float features; where they are kept on the device, it is there."""
        items = items % self._whole
        if self._resident is not None:
            return self._resident.index_select(0, items.to(self._resident.device))
        chosen = items.cpu().numpy()
        shown = show(self.dataset, self.config, self.rows[chosen % len(self.rows)], chosen // len(self.rows))
        return torch.from_numpy(shown)

    def lying(self, items: torch.Tensor) -> list[np.ndarray] | None:
        """See `Batches`."""
        if self._resident is None:
            return None
        held = self._resident.numpy()
        return [held[item] for item in (items % self._whole).tolist()]

    def answers(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(class of every item int64 [V · N], whether it is a label that holds for the item bool [V · N]).

        Where there is none, the class is the top one of the ensemble's `logits` [V · N, C]. With those of all folds
        [(1 + K) · V · N, C] the answers are as many.
        """
        labels = torch.from_numpy(self.dataset.labels_of(self.rows)).repeat(self.config.count)
        known = labels >= 0
        if not self.keeps:
            known[len(self.rows) :] = False
        blocks_ = len(logits) // len(labels)
        labels, known = labels.repeat(blocks_), known.repeat(blocks_).to(logits.device)
        return torch.where(known, labels.to(logits.device), logits.argmax(-1)), known
