"""Numbers through float32: their order and their differences stay, whatever stands beside them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.serving.reading import table_feeds
from distillery.stages.data import preprocess
from distillery.stages.data.scaling import scaling


def encode(train: pd.DataFrame, rows: pd.DataFrame, scale: str = "column") -> np.ndarray:
    """Rows through the graph that was fitted on others."""
    return preprocess.encode(preprocess.session(preprocess.table_graph(train, scale)), table_feeds(rows))


SENTINELS = [2147483647.0, 999999999.0, -999999.0, 1e18, 1e300]


@pytest.mark.parametrize("sentinel", SENTINELS)
@pytest.mark.parametrize("count", [1, 15, 60])
def test_a_marker_leaves_the_others_as_they_are(sentinel: float, count: int) -> None:
    """property: values beside a far one keep their order, and are told apart as before."""
    values = np.random.default_rng(count).normal(size=600).round(4)
    values[:count] = sentinel
    frame = pd.DataFrame({"a": values})
    encoded = encode(frame, frame)[:, 0]
    assert np.isfinite(encoded).all()
    order = np.argsort(values, kind="stable")
    assert (np.diff(encoded[order]) >= 0).all()
    assert len(np.unique(encoded)) == len(np.unique(values))
    others = encoded[count:]
    assert 0.5 < np.std(others) < 2


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=2, max_size=40),
    st.floats(allow_nan=False, allow_infinity=False, width=64),
)
@settings(max_examples=150, deadline=None)
def test_any_numbers_give_finite_inputs_in_their_order(values: list[float], later: float) -> None:
    """property: for all float64 values in training, and any that comes later."""
    frame = pd.DataFrame({"a": values})
    rows = pd.DataFrame({"a": [*values, later]})
    encoded = encode(frame, rows)[:, 0]
    assert np.isfinite(encoded).all()
    order = np.argsort(rows["a"].to_numpy(), kind="stable")
    assert (np.diff(encoded[order]) >= 0).all()


def test_tame_columns_are_standardized_bit_by_bit() -> None:
    """reference: mean and standard deviation by numpy, cast once; a wild neighbour changes nothing."""
    draw = np.random.default_rng(0)
    tame = draw.normal(3, 2, 400)
    wild = np.where(draw.random(400) < 0.02, 1e9, draw.normal(size=400))
    expected = ((tame - tame.mean()) / tame.std()).astype(np.float32)
    alone = encode(pd.DataFrame({"a": tame}), pd.DataFrame({"a": tame}))
    frame = pd.DataFrame({"a": tame, "b": wild})
    np.testing.assert_allclose(alone[:, 0], expected, rtol=1e-6)
    assert np.array_equal(encode(frame, frame)[:, 0], alone[:, 0])


@pytest.mark.parametrize("scale", ["column", "shared"])
def test_what_never_differs_counts_for_nothing_later(scale: str) -> None:
    """property: columns that are constant or empty in training are zero, whatever comes."""
    draw = np.random.default_rng(0)
    train = pd.DataFrame({"a": draw.normal(size=50), "same": 3.0, "empty": np.nan, "text": "u"})
    later = train.assign(same=1e12, empty=5.0, text="v")
    before, after = encode(train, train, scale), encode(train, later, scale)
    assert np.array_equal(before, after)
    assert not before[:, 1:].any()


def test_rare_flags_are_no_wild_columns() -> None:
    """reference: a flag that few rows carry has mean 0 and variance 1, as any column."""
    flags = np.zeros((1000, 1))
    flags[:20] = 1
    found = scaling(flags, shared=False)
    assert np.isinf(found.knee).all()
    np.testing.assert_allclose([found.center[0], found.scale[0]], [flags.mean(), flags.std()])
