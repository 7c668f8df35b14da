"""Logits in fewer bytes: what comes back, and how much of it is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax, softmax

from distillery.errors import InputError
from distillery.ops.encodings import Encoding, Int8Encoding, TopKEncoding, encoding_of, kl_at
from distillery.stages.logits.logit_store import Reader, Writer

LOGITS = np.random.default_rng(0).normal(0, 4, (500, 40)).astype(np.float32)
ROWS = arrays(np.float32, (3, 9), elements=st.floats(-50, 50, width=32))


def back(encoding: Encoding, logits: np.ndarray) -> np.ndarray:
    """Encoded and decoded."""
    encoded = encoding.encode(logits)
    assert encoded.dtype == np.uint8 and encoded.shape == (len(logits), encoding.width)
    return encoding.decode(encoded)


@given(ROWS)
def test_steps_are_off_by_half_a_step_at_most(logits: np.ndarray) -> None:
    """property: each class, seen from the top one, within half of 1/255 of the row's range (and float16's rounding)."""
    below, found = logits - logits.max(-1, keepdims=True), back(Int8Encoding(9), logits)
    span = -below.min(-1, keepdims=True)
    assert np.all(np.abs(found - below) <= span / 510 + span * 2**-10 + 1e-5)
    assert np.all(found.max(-1) == 0)


@given(ROWS, st.integers(1, 8))
def test_top_keeps_the_top_and_the_mass_of_the_rest(logits: np.ndarray, kept: int) -> None:
    """reference: by sorting; log-probabilities of the kept classes and of all others together, at float16."""
    logs, found = np.sort(log_softmax(logits.astype(np.float64), axis=-1), axis=-1), back(TopKEncoding(9, kept), logits)
    own = np.take_along_axis(found, np.argsort(logits, axis=-1, kind="stable"), -1)
    assert np.allclose(np.sort(found, axis=-1)[:, -kept:], logs[:, -kept:], rtol=2**-10, atol=1e-4)
    rest = np.log(np.exp(logs[:, : 9 - kept]).sum(-1))
    told = np.log(np.exp(np.sort(own, axis=-1)[:, : 9 - kept].astype(np.float64)).sum(-1))
    assert np.allclose(told, rest, rtol=2**-9, atol=1e-3)


def test_more_bytes_lose_less() -> None:
    """property: KL falls with the classes kept, and int8 loses hardly anything at any temperature of a search."""
    for temperature in (1.0, 4.0):
        lost = [kl_at(temperature, LOGITS, back(TopKEncoding(40, kept), LOGITS)).mean() for kept in (1, 4, 12, 20)]
        assert lost == sorted(lost, reverse=True) and lost[0] > 10 * lost[-1] > 0
        assert 0 < kl_at(temperature, LOGITS, back(Int8Encoding(40), LOGITS)).mean() < 1e-3


def test_kl_is_the_sum_over_classes() -> None:
    """reference: ``sum p log(p / q)`` at the temperature."""
    other = LOGITS + np.random.default_rng(1).normal(size=LOGITS.shape)
    p, q = softmax(LOGITS / 3.0, axis=-1), softmax(other / 3.0, axis=-1)
    assert np.allclose(kl_at(3.0, LOGITS, other), (p * np.log(p / q)).sum(-1), atol=1e-5)


@pytest.mark.parametrize(("dtype", "top"), [("int8", None), ("float16", 5)])
def test_the_store_keeps_encoded_rows(tmp_path: Path, dtype: str, top: int | None) -> None:
    """reference: the encoding alone; any rows, and the bytes on disk are those of the rows."""
    content = np.stack([LOGITS, LOGITS[::-1]])
    writer = Writer(tmp_path / "a", content.shape, dtype, 128, top)
    reader = Reader(tmp_path / "a")
    for view, rows in enumerate(content):
        for start in range(0, 500, reader.chunk_rows):
            assert not reader.is_whole(view, start)
            writer.write(view, start, rows[start : start + reader.chunk_rows])
    encoding = encoding_of(dtype, top, 40)
    assert encoding is not None and reader.classes == 40
    assert np.array_equal(Reader(tmp_path / "a").all()[1], back(encoding, LOGITS[::-1]))
    assert np.array_equal(reader.rows_of(0, 120, 300), back(encoding, LOGITS)[120:300])
    assert all(reader.is_whole(view, 0) for view in (0, 1))
    size = sum(f.stat().st_size for f in (tmp_path / "a" / "c").rglob("*") if f.is_file())
    assert 1000 * encoding.width <= size <= 1.01 * 1000 * encoding.width < 1000 * 80


def test_an_encoding_that_saves_nothing_is_refused() -> None:
    """contract: the error names the setting and both sizes; plain numbers need no encoding."""
    assert encoding_of("float16", None, 2) is None and encoding_of("float32", None, 1000) is None
    with pytest.raises(InputError, match=r"logits\.dtype: int8 takes 4 bytes a row for 2 classes, expected fewer than"):
        encoding_of("int8", None, 2)
    with pytest.raises(InputError, match=r"logits\.top: 10 takes"):
        encoding_of("float16", 10, 10)
