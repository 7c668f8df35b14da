"""Stage `logits`: raw logits per member and split, so that temperature and weights stay exactly searchable.

A chunk that a killed run left behind whole is kept; one that is missing or damaged is computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from distillery.config.experiment import Logits, Views
from distillery.devices import resolved
from distillery.errors import InputError
from distillery.memory import blocks
from distillery.ops.encodings import kl_at
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.transfer_set import show, transfer_rows
from distillery.stages.logits.logit_store import Reader, Writer
from distillery.stages.teachers.member_files import load_member
from distillery.stages.teachers.members import FoldsMember, Member
from distillery.store import Handle, Store, write_json

VERSION = 6
ARRAY = "logits.zarr"
SAMPLE = 1024  # items on which the error of an encoding is measured
DRIFT = 0.05  # in log-probability; another order of sums stays well below
# The same as a share of the largest logit: TF32, with which a GPU multiplies where a CPU uses float32, keeps ten bits
# of a number, and what it loses adds up over layers. Where, and in which batches, logits were made is not in their key.
RELATIVE_DRIFT = 2.0**-7


def cache_logits(
    member: Handle,
    split: str,
    data: Handle,
    config: Logits,
    store: Store,
    *,
    device: str = "cpu",
    views: Views | None = None,
    without: int | None = None,
    temperatures: Sequence[float] = (1.0,),
) -> Handle:
    """The member's raw logits: [V · N, C], view after view, in the order of the split's rows.

    Args:
        member: Stage `teachers`.
        split: A split's name, or ``transfer`` for the rows and views that the student is shown.
        data: Stage `data`.
        config: How logits are kept.
        store: Where.
        device: Where to compute; `AUTO` for the process that does to decide.
        views: With ``transfer``: the views.
        without: With ``transfer`` and folds: the fold on which the students are judged that learn from these logits; no
            model that answers has learned its rows.
        temperatures: At which to say what an encoding loses.

    Metrics: of encoded logits `bytes_per_row` and `kl`, the mean KL in nats between the member's answers and what is
    kept, for each temperature, on `kl_rows` items drawn at random.
    """
    device = resolved(device)
    shown, config = views or Views(), config if split == "transfer" else config.exact
    belongs = {
        "member": member.fingerprint,
        "data": _asked(split, data),
        "split": split,
        "views": shown.model_dump(),
        "without": without,
    }
    encoded = config != config.exact
    key = [VERSION, config, belongs, list(temperatures) if encoded else []]

    def build(work: Path) -> dict[str, Any]:
        dataset = Dataset(data)
        rows = transfer_rows(dataset) if split == "transfer" else dataset.splits[split]
        shape = (shown.count, len(rows), dataset.spec.classes)
        array = Writer(work / ARRAY, shape, config.dtype, config.chunk_rows, config.top)
        found, source, computed = Reader(work / ARRAY), None, 0
        for number in range(shown.count):
            for start in range(0, len(rows), found.chunk_rows):
                part = rows[start : start + found.chunk_rows]
                if found.is_whole(number, start):
                    continue
                source = source or _member(member, dataset, device, without)
                logits = _answers(source, dataset, shown, part, np.full(len(part), number))
                _check_finite(logits, part, member.name)
                array.write(number, start, _rounded(logits, config.exact.dtype, part, member.name))
                computed += len(part)
        write_json(work / "belongs.json", belongs)
        lost = _lost(found, _Answers(member, data, shown, device, without), temperatures) if encoded else {}
        return {"rows": shown.count * len(rows), "rows_computed": computed, **lost}

    what = split if without is None else f"{split}_without_{without}"
    return store.stage("logits", f"{member.name}-{what}", key, build)


def _member(handle: Handle, dataset: Dataset, device: str, without: int | None) -> Member:
    member = load_member(handle, dataset, device)
    if without is None:
        return member
    assert isinstance(member, FoldsMember)
    return member.without(without)


def fold_of(logits: Handle) -> int | None:
    """The fold without which a transfer set was labelled; see `cache_logits`."""
    without: int | None = logits.json("belongs.json")["without"]
    return without


def _asked(split: str, data: Handle) -> str:
    """Digest of the rows of a split, or of the transfer set."""
    return Dataset(data).digest(*(("train", "unlabeled") if split == "transfer" else (split,)))


def _answers(member: Member, dataset: Dataset, views: Views, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Logits [B, C] of views of rows, which are made and shown to the member by the block."""
    found = []
    for part in blocks(len(rows), dataset.inputs[:1].nbytes):
        inputs = show(dataset, views, rows[part], numbers[part])
        found.append(member.logits(inputs, rows[part]))
    return np.concatenate(found)


def check_drift(logits: Handle, member: Handle, data: Handle, *, device: str = "cpu", entries: int = 32) -> float:
    """Largest difference of a log-probability between entries of a transfer set's logits and the member's answer now.

    Raises:
        RuntimeError: It is above what a GPU, another size of batches and the rounding of what is kept can do: the
            member, a library or the machine gives other answers than it did.
    """
    device = resolved(device)
    views, array = Views(**logits.json("belongs.json")["views"]), reader_of(logits)
    drawn = _Answers(member, data, views, device, fold_of(logits)).some(array, entries, int(logits.fingerprint[:8], 16))
    drift = _apart(drawn.kept, drawn.now)
    size = np.abs(drawn.now).max(-1)
    # the answer of now, kept as the others are, may be as far off: labelling again could never do better
    allowed = DRIFT + RELATIVE_DRIFT * size + _apart(_as_kept(drawn.now, array), drawn.now)
    worst = int((drift - allowed).argmax())
    if drift[worst] > allowed[worst]:
        raise RuntimeError(
            f"logits of member {member.name!r}: row {drawn.rows[worst]} in view {drawn.views[worst]} was labelled "
            f"{drift[worst]:.3g} away in log-probability from what the member answers now, expected at most "
            f"{allowed[worst]:.3g}: the member's files, a library or the machine gives other answers than it did; go "
            f"back to those that labelled, or remove {logits.path} (and its copy at the remote, if there is one) to "
            "label again"
        )
    return float(drift.max())


def _as_kept(logits: np.ndarray, array: Reader) -> np.ndarray:
    """What would be read again if these logits [B, C] were kept in the array."""
    if array.encoding is None:
        return logits.astype(array.dtype).astype(np.float32)
    return array.encoding.decode(array.encoding.encode(logits.astype(np.float16)))


@dataclass(frozen=True)
class _Drawn:
    """Items drawn at random: row ids and views [B], and logits [B, C] as they are kept and as the member answers."""

    rows: np.ndarray
    views: np.ndarray
    kept: np.ndarray
    now: np.ndarray


@dataclass(frozen=True)
class _Answers:
    """A member, asked about the transfer set."""

    member: Handle
    data: Handle
    views: Views
    device: str
    without: int | None

    def some(self, array: Reader, entries: int, seed: int) -> _Drawn:
        """The member's answers on some items, beside those that are kept."""
        dataset, generator = Dataset(self.data), np.random.default_rng(seed)
        rows = transfer_rows(dataset)
        places = generator.integers(0, len(rows), min(entries, len(rows)))
        numbers = generator.integers(0, self.views.count, len(places))
        in_order = np.lexsort((places, numbers))  # so that each chunk is read once
        places, numbers = places[in_order], numbers[in_order]
        kept = np.concatenate([array.rows_of(v, p, p + 1) for v, p in zip(numbers, places, strict=True)])
        member = _member(self.member, dataset, self.device, self.without)
        now = _answers(member, dataset, self.views, rows[places], numbers)
        return _Drawn(rows[places], numbers, kept, now)


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Largest difference of a log-probability [B] between logits [B, C]."""
    logs = [log_softmax(logits.astype(np.float64), axis=-1) for logits in (one, other)]
    return np.asarray(np.abs(logs[0] - logs[1]).max(-1))


def _lost(array: Reader, answers: _Answers, temperatures: Sequence[float]) -> dict[str, Any]:
    drawn = answers.some(array, SAMPLE, 0)
    assert array.encoding is not None
    kl = {f"{t:g}": float(kl_at(t, drawn.now, drawn.kept).mean()) for t in temperatures}
    return {"bytes_per_row": array.encoding.width, "kl": kl, "kl_rows": len(drawn.rows)}


def check_belongs(logits: list[Handle], data: Handle, views: Views) -> None:
    """Refuses logits that were made for something else.

    Raises:
        InputError: They are of other data, of another split than the transfer set, or of other views.
    """
    for handle in logits:
        found = handle.json("belongs.json")
        for field, wanted in (
            ("split", "transfer"),
            ("data", _asked("transfer", data)),
            ("views", views.model_dump(mode="json")),
        ):
            if found[field] != wanted:
                raise InputError(f"logits {handle.name!r}: expected {field} {wanted}, got {found[field]}")


def _check_finite(logits: np.ndarray, rows: np.ndarray, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(logits).all(-1))
    if len(bad):
        raise FloatingPointError(f"member {name!r}: logits of row {rows[bad[0]]} are not finite")


def _rounded(logits: np.ndarray, dtype: str, rows: np.ndarray, name: str) -> np.ndarray:
    """Logits in another precision.

    Raises:
        InputError: Some are too large for it.
    """
    with np.errstate(over="ignore"):
        rounded = logits.astype(dtype)
    bad = np.flatnonzero(~np.isfinite(rounded).all(-1))
    if len(bad):
        largest = float(np.abs(logits[bad[0]]).max())
        raise InputError(
            f"member {name!r}: expected logits of at most {np.finfo(dtype).max:.0f} in size, as {dtype} can hold, got "
            f"{largest:.4g} in row {rows[bad[0]]}; set logits.dtype: float32"
        )
    return rounded


def read_logits(handle: Handle) -> np.ndarray:
    """Raw logits float32 [views · N, C] of one member on one split, view after view.

    Raises:
        ValueError: A chunk is damaged or missing.
    """
    found = reader_of(handle).all()
    return found.reshape(-1, found.shape[-1])


def reader_of(handle: Handle) -> Reader:
    """The kept logits, to be read by parts."""
    return Reader(handle.file(ARRAY))
