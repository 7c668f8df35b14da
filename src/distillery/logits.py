"""Stage `logits`: raw logits per member and split, so that temperature and weights stay exactly searchable.

A zarr v3 array [views, N, C] in chunks of rows, each with a CRC-32C. A chunk that a killed run left behind whole is
kept; one that is missing or damaged is computed again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from distillery.config import Augment, Logits
from distillery.dataset import Dataset
from distillery.store import Handle, Store
from distillery.teachers import load_member
from distillery.views import view

VERSION = 3
ARRAY = "logits.zarr"


def cache_logits(
    member: Handle,
    split: str,
    data: Handle,
    config: Logits,
    store: Store,
    *,
    device: str = "cpu",
    views: int = 1,
    augment: Augment | None = None,
) -> Handle:
    """The member's raw logits on a split, in the order of the split's rows, view after view: [views · N, C]."""
    seen = [views, augment] if views > 1 else None
    key = [VERSION, config, split, seen, member.fingerprint, data.fingerprint]

    def build(work: Path) -> dict[str, Any]:
        dataset = Dataset(data)
        rows = dataset.splits[split]
        array = _open(work / ARRAY, (views, len(rows), dataset.spec.classes), config)
        source, computed = None, 0
        for number in range(views):
            for start in range(0, len(rows), config.chunk_rows):
                part = rows[start : start + config.chunk_rows]
                place = (number, slice(start, start + len(part)))
                if _is_whole(array, place):
                    continue
                source = source or load_member(member, dataset.spec, device)
                inputs = view(dataset.inputs[part], part, number, augment or Augment())
                logits = source.logits(inputs, part).astype(config.dtype)
                _check_finite(logits, part, member.name)
                array[place] = logits
                computed += len(part)
        return {"rows": views * len(rows), "rows_computed": computed}

    return store.stage("logits", f"{member.name}-{split}", key, build)


def _open(path: Path, shape: tuple[int, int, int], config: Logits) -> Any:
    if path.exists():
        try:
            array = zarr.open_array(path, mode="r+")
            if array.shape == shape:
                return array
        except (OSError, ValueError, KeyError):
            pass  # cut off while the array was being made: begin again
    return zarr.create_array(
        path,
        shape=shape,
        chunks=(1, min(config.chunk_rows, shape[1]), shape[2]),
        dtype=config.dtype,
        fill_value=float("nan"),
        serializer=BytesCodec(),
        compressors=[Crc32cCodec()],
        filters=None,
        overwrite=True,
    )


def _is_whole(array: Any, place: tuple[int, slice]) -> bool:
    try:
        return bool(np.isfinite(array[place]).all())
    except (ValueError, OSError, RuntimeError):
        return False


def _check_finite(logits: np.ndarray, rows: np.ndarray, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(logits).all(-1))
    if len(bad):
        raise FloatingPointError(f"member {name!r}: logits of row {rows[bad[0]]} are not finite")


def read_logits(handle: Handle) -> np.ndarray:
    """Raw logits float32 [views · N, C] of one member on one split, view after view."""
    stored = np.asarray(zarr.open_array(handle.file(ARRAY), mode="r")[:], np.float32)
    return stored.reshape(-1, stored.shape[-1])
