"""Stage `logits`: raw logits per member and split, so that temperature and weights stay exactly searchable.

A zarr v3 array [N, C] in chunks of rows, each with a CRC-32C. A chunk that a killed run left behind whole is kept; one
that is missing or damaged is computed again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from distillery.config import Logits
from distillery.dataset import Dataset
from distillery.store import Handle, Store
from distillery.teachers import load_member

VERSION = 1
ARRAY = "logits.zarr"


def cache_logits(
    member: Handle, split: str, data: Handle, config: Logits, store: Store, *, device: str = "cpu"
) -> Handle:
    """The member's raw logits on a split, in the order of the split's rows."""
    key = [VERSION, config, split, member.fingerprint, data.fingerprint]
    return store.stage(
        "logits", f"{member.name}-{split}", key, lambda work: _write(work, member, split, data, config, device)
    )


def _write(work: Path, member: Handle, split: str, data: Handle, config: Logits, device: str) -> dict[str, Any]:
    dataset = Dataset(data)
    rows = dataset.splits[split]
    array = _open(work / ARRAY, (len(rows), dataset.spec.classes), config)
    source = None
    computed = 0
    for start in range(0, len(rows), config.chunk_rows):
        part = rows[start : start + config.chunk_rows]
        if _is_whole(array, start, start + len(part)):
            continue
        source = source or load_member(member, dataset.spec, device)
        logits = source.logits(dataset.inputs[part], part)
        _check_finite(logits, part, member.name)
        array[start : start + len(part)] = logits
        computed += len(part)
    return {"rows": len(rows), "rows_computed": computed}


def _open(path: Path, shape: tuple[int, int], config: Logits) -> Any:
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
        chunks=(min(config.chunk_rows, shape[0]), shape[1]),
        dtype=config.dtype,
        fill_value=float("nan"),
        serializer=BytesCodec(),
        compressors=[Crc32cCodec()],
        filters=None,
        overwrite=True,
    )


def _is_whole(array: Any, start: int, end: int) -> bool:
    try:
        return bool(np.isfinite(array[start:end]).all())
    except (ValueError, OSError, RuntimeError):
        return False


def _check_finite(logits: np.ndarray, rows: np.ndarray, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(logits).all(-1))
    if len(bad):
        raise FloatingPointError(f"member {name!r}: logits of row {rows[bad[0]]} are not finite")


def read_logits(handle: Handle) -> np.ndarray:
    """Raw logits float32 [N, C] of one member on one split."""
    return np.asarray(zarr.open_array(handle.file(ARRAY), mode="r")[:], np.float32)
