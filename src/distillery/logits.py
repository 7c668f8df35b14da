"""Stage `logits`: raw logits per member and split, so that temperature and weights stay exactly searchable.

A chunk that a killed run left behind whole is kept; one that is missing or damaged is computed again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from distillery.config import Logits, Views
from distillery.dataset import Dataset
from distillery.errors import InputError
from distillery.logit_store import Reader, open_array
from distillery.store import Handle, Store, write_json
from distillery.teachers import load_member
from distillery.transfer import show, transfer_rows

VERSION = 4
ARRAY = "logits.zarr"
DRIFT = 0.05  # in log-probability; rounding to float16 and another order of sums stay well below


def cache_logits(
    member: Handle,
    split: str,
    data: Handle,
    config: Logits,
    store: Store,
    *,
    device: str = "cpu",
    views: Views | None = None,
) -> Handle:
    """The member's raw logits: [V · N, C], view after view, in the order of the split's rows.

    Args:
        member: Stage `teachers`.
        split: A split's name, or ``transfer`` for the rows and views that the student is shown.
        data: Stage `data`.
        config: How logits are kept.
        store: Where.
        device: Where to compute.
        views: With ``transfer``: the views.
    """
    shown = views or Views()
    belongs = {"member": member.fingerprint, "data": data.fingerprint, "split": split, "views": shown.model_dump()}
    key = [VERSION, config, belongs]

    def build(work: Path) -> dict[str, Any]:
        dataset = Dataset(data)
        rows = transfer_rows(dataset) if split == "transfer" else dataset.splits[split]
        shape = (shown.count, len(rows), dataset.spec.classes)
        array = open_array(work / ARRAY, shape, config.dtype, config.chunk_rows)
        found, source, computed = Reader(work / ARRAY), None, 0
        for number in range(shown.count):
            for start in range(0, len(rows), found.chunk_rows):
                part = rows[start : start + found.chunk_rows]
                if found.is_whole(number, start):
                    continue
                source = source or load_member(member, dataset.spec, device)
                inputs = show(dataset, shown, part, np.full(len(part), number))
                logits = source.logits(inputs, part).astype(config.dtype)
                _check_finite(logits, part, member.name)
                array[number, start : start + len(part)] = logits
                computed += len(part)
        write_json(work / "belongs.json", belongs)
        return {"rows": shown.count * len(rows), "rows_computed": computed}

    return store.stage("logits", f"{member.name}-{split}", key, build)


def check_drift(logits: Handle, member: Handle, data: Handle, *, device: str = "cpu", entries: int = 32) -> float:
    """Largest difference of a log-probability between entries of a transfer set's logits and the member's answer now.

    Raises:
        RuntimeError: It is above `DRIFT`: the member, a library or the machine gives other answers than it did.
    """
    dataset, belongs = Dataset(data), logits.json("belongs.json")
    rows, views = transfer_rows(dataset), Views(**belongs["views"])
    generator = np.random.default_rng(int(logits.fingerprint[:8], 16))
    places = generator.integers(0, len(rows), min(entries, len(rows)))
    numbers = generator.integers(0, views.count, len(places))
    array = reader_of(logits)
    kept = np.concatenate([array.rows_of(v, p, p + 1) for v, p in zip(numbers, places, strict=True)]).astype(np.float64)
    inputs = show(dataset, views, rows[places], numbers)
    now = load_member(member, dataset.spec, device).logits(inputs, rows[places])
    drift = np.abs(log_softmax(kept, axis=-1) - log_softmax(now.astype(np.float64), axis=-1)).max(-1)
    worst = int(drift.argmax())
    if drift[worst] > DRIFT:
        raise RuntimeError(
            f"logits of member {member.name!r}: row {rows[places[worst]]} in view {numbers[worst]} was labelled "
            f"{drift[worst]:.3g} away in log-probability from what the member answers now, expected at most {DRIFT}; "
            f"remove {logits.path} to label again"
        )
    return float(drift[worst])


def check_belongs(logits: list[Handle], data: Handle, views: Views) -> None:
    """Refuses logits that were made for something else.

    Raises:
        InputError: They are of other data, of another split than the transfer set, or of other views.
    """
    for handle in logits:
        found = handle.json("belongs.json")
        for field, wanted in (
            ("data", data.fingerprint),
            ("split", "transfer"),
            ("views", views.model_dump(mode="json")),
        ):
            if found[field] != wanted:
                raise InputError(f"logits {handle.name!r}: expected {field} {wanted}, got {found[field]}")


def _check_finite(logits: np.ndarray, rows: np.ndarray, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(logits).all(-1))
    if len(bad):
        raise FloatingPointError(f"member {name!r}: logits of row {rows[bad[0]]} are not finite")


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
