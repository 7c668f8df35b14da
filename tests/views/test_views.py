"""View transforms: what each of them promises, whatever it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from distillery.config.experiment import View
from distillery.errors import InputError
from distillery.ops.counter_rng import CounterRNG
from distillery.views import VIEWS, Pool

GENERATOR = np.random.default_rng(0)
NONE = np.empty(0, np.int64)
ROWS = np.arange(100, 112)  # of the source; none of them is a training row
TRAIN = np.arange(3, 33)


def image_case() -> SimpleNamespace:
    """Random images of bytes, and a pool of others."""
    pool = Pool(GENERATOR.integers(0, 256, (40, 3, 16, 16), np.uint8), TRAIN, NONE, NONE.astype(bool))
    return SimpleNamespace(inputs=GENERATOR.integers(0, 256, (12, 3, 16, 16), np.uint8), pool=pool)


def table_case(numbers_only: bool) -> SimpleNamespace:
    """Two numbers, and unless `numbers_only` a mark of missing cells and two categories."""
    rows = GENERATOR.normal(size=(52, 2))
    if not numbers_only:
        hot = [np.eye(n)[GENERATOR.integers(0, n, 52)] for n in (2, 3)]
        rows = np.concatenate([rows, GENERATOR.random((52, 1)) < 0.3, *hot], axis=1)
    width = rows.shape[1]
    columns, numeric = np.array([0, 1, 0, 2, 2, 3, 3, 3])[:width], np.arange(width) < 2
    rows = rows.astype(np.float32)
    return SimpleNamespace(inputs=rows[40:], pool=Pool(rows[:40], TRAIN, columns, numeric))


def example(name: str, kind: str) -> SimpleNamespace:
    """Inputs and a pool that the transform takes."""
    return image_case() if kind == "image" else table_case(numbers_only=name == "gmm")


CASES = {f"{n} {k}": (n, k, example(n, k)) for n in VIEWS.names() for k in VIEWS.traits(n)["kinds"]}
OPTIONS: dict[str, dict[str, Any]] = {"shift": {"size": 0.2}, "gmm": {"components": 2}}


def shown(case: str, which: Any = slice(None), number: int = 1, key: int = 0) -> np.ndarray:
    """View `number` of some of the case's rows."""
    name, _, data = CASES[case]
    rows = ROWS[which]
    draws = CounterRNG(rows, np.full(len(rows), number), key)
    return VIEWS[name](data.inputs[which], draws, data.pool, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("case", CASES)
def test_every_view_keeps_the_promise(case: str) -> None:
    """contract: shape and type stay, numbers are finite, what it was given is untouched, traits say what it takes."""
    name, kind, data = CASES[case]
    before, pool = data.inputs.copy(), data.pool.inputs.copy()
    data.inputs.flags.writeable = data.pool.inputs.flags.writeable = False
    found = shown(case)
    assert found.shape == data.inputs.shape and found.dtype == data.inputs.dtype
    assert np.isfinite(found).all() and isinstance(VIEWS.traits(name)["keeps_label"], bool)
    assert np.array_equal(data.inputs, before) and np.array_equal(data.pool.inputs, pool)
    assert set(VIEWS.traits(name)["kinds"]) <= {"image", "table"} and kind in VIEWS.traits(name)["kinds"]
    assert not np.array_equal(found, before)


@given(st.permutations(range(12)), st.integers(1, 1000), st.integers(0, 200))
def test_order_and_company_do_not_matter(order: list[int], number: int, key: int) -> None:
    """property: a view of a row is the same in any batch and at any place, to the last bit."""
    for case in CASES:
        together = shown(case, number=number, key=key)
        assert np.array_equal(shown(case, order, number, key), together[order]), case
        assert np.array_equal(shown(case, [5], number, key), together[5:6]), case


@pytest.mark.parametrize("case", CASES)
def test_views_differ(case: str) -> None:
    """property: another view number, another key or another row id is another view; the same one is the same."""
    name, _, data = CASES[case]
    assert np.array_equal(shown(case), shown(case))
    assert not np.array_equal(shown(case), shown(case, number=2))
    assert not np.array_equal(shown(case), shown(case, key=1))
    other = VIEWS[name](data.inputs, CounterRNG(ROWS + 50, np.ones(12, np.int64)), data.pool, **OPTIONS.get(name, {}))
    assert not np.array_equal(shown(case), other)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *((name, {"strenght": 1}, f"unknown option of view '{name}'") for name in VIEWS.names()),
    ("shift", {"size": 0.6}, "size: .*, got 0.6"),
    ("mixup", {"alpha": 0}, "alpha: .*, got 0"),
    ("cutmix", {"alpha": -1.0}, "alpha: .*, got -1.0"),
    ("noise", {"size": -0.1}, "size: .*, got -0.1"),
    ("spunge", {"columns": 20}, "columns: .*, got 20"),
    ("brightness", {"size": 0.0}, "size: .*, got 0.0"),
    ("brightness", {"size": 1.0}, "size: .*, got 1.0"),
    ("gmm", {"components": 0}, "components: .*, got 0"),
    ("mixxup", {}, r"did you mean 'mixup'\?"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED, ids=[f"{n} {o}" for n, o, _ in REFUSED])
def test_options_that_mean_nothing_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    """contract: unknown names and options, and values that no transform can use, are told when a config is read."""
    with pytest.raises(ValueError, match=message):
        View(name=name, **options)
    with pytest.raises(InputError, match=message):
        VIEWS.check(name, options)


def test_shift_moves_each_image_as_a_whole() -> None:
    """reference: every view is one of the 7 · 7 windows of the image with its edges repeated, and all of them occur."""
    padded = np.pad(CASES["shift image"][2].inputs, ((0, 0), (0, 0), (3, 3), (3, 3)), mode="edge")
    seen = set()
    for number in range(1, 60):
        for before, after in zip(padded, shown("shift image", number=number), strict=True):
            windows = [
                (y, x) for y in range(7) for x in range(7) if np.array_equal(before[:, y : y + 16, x : x + 16], after)
            ]
            assert len(windows) == 1
            seen.add(windows[0])
    assert len(seen) == 49


def test_flip_mirrors_half_of_them() -> None:
    """reference: every view is the image or its mirror image, each about equally often."""
    mirrored = []
    for number in range(1, 60):
        for before, after in zip(CASES["flip image"][2].inputs, shown("flip image", number=number), strict=True):
            assert np.array_equal(after, before) or np.array_equal(after, before[..., ::-1])
            mirrored.append(np.array_equal(after, before[..., ::-1]))
    assert stats.binomtest(sum(mirrored), len(mirrored)).pvalue > 0.01


@pytest.mark.parametrize("size", [0.1, 0.4, 0.9])
def test_light_is_one_factor_per_image_within_its_bounds(size: float) -> None:
    """reference: of 100 on all pixels, what is shown is 100 times a factor between 1 - size and 1 + size, all alike;
    nothing is brighter than white or wraps around."""
    _, _, data = CASES["brightness image"]
    draws = CounterRNG(np.arange(2_000), np.ones(2_000, np.int64))
    for level in (100, 250):
        found = VIEWS["brightness"](np.full((2_000, 3, 4, 4), level, np.uint8), draws, data.pool, size=size)
        assert (found == found[:, :1, :1, :1]).all()
        exact = np.minimum(level * (1 + size * (2 * draws.uniform(0) - 1)), 255)
        assert np.abs(found[:, 0, 0, 0] - exact).max() <= 0.5 + 1e-3
        if level == 100:
            factors = found[:, 0, 0, 0] / 100
            assert (
                1 - size - 0.006
                <= factors.min()
                < 1 - 0.97 * size
                < 1 + 0.97 * size
                < factors.max()
                <= 1 + size + 0.006
            )
            assert abs(factors.mean() - 1) < 4 * size / np.sqrt(3 * 2_000)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_cutmix_cuts_one_box_from_one_image(alpha: float) -> None:
    """reference: pixels inside a rectangle are of one training image, the others stay; its area is 1 - λ.

    Boxes that are cut off at the edges are smaller, so that the mean is the one over λ and places, by a sum.
    """
    side, count = 16, 3_000
    marked = np.broadcast_to(np.arange(100, 140, dtype=np.uint8)[:, None, None, None], (40, 3, side, side))
    pool = Pool(marked, TRAIN, NONE, NONE.astype(bool))
    inputs = np.random.default_rng(1).integers(0, 100, (count, 3, side, side), np.uint8)
    draws = CounterRNG(np.arange(count), np.ones(count, np.int64))
    found = VIEWS["cutmix"](inputs, draws, pool, alpha=alpha)
    areas, partners = [], []
    for before, after in zip(inputs, found, strict=True):
        taken = after >= 100
        box = taken[0]
        assert (taken == box).all() and np.array_equal(box, box.any(1)[:, None] & box.any(0)[None])
        for edge in (box.any(0), box.any(1)):
            assert np.abs(np.diff(edge.astype(int))).sum() <= 2
        assert np.array_equal(after[~taken], before[~taken]) and len(np.unique(after[taken])) <= 1
        areas.append(box.mean())
        partners.extend(after[taken][:1] - 100)
    half = np.sqrt(1 - stats.beta.ppf((np.arange(4000) + 0.5) / 4000, alpha, alpha))[:, None] * side / 2
    centres = np.arange(side) + 0.5
    covered = (np.minimum(centres + half, side) - np.maximum(centres - half, 0)).mean(1) / side
    assert np.mean(areas) == pytest.approx((covered**2).mean(), abs=4 * np.std(areas) / np.sqrt(count))
    assert set(partners) == set(TRAIN)


@pytest.mark.parametrize("alpha", [0.4, 2.0])
def test_mixup_lies_between_the_row_and_a_training_row(alpha: float) -> None:
    """reference: of all training rows, one is on a line with row and view; λ found there is Beta, by scipy's test."""
    inputs, others = np.split(np.random.default_rng(2).normal(size=(2_040, 6)).astype(np.float32), [2_000])
    pool = Pool(others, TRAIN, np.arange(6), np.ones(6, bool))
    found = VIEWS["mixup"](inputs, CounterRNG(np.arange(2_000), np.ones(2_000, np.int64)), pool, alpha=alpha)
    toward = pool.inputs[TRAIN].astype(np.float64)[None] - inputs[:, None]
    moved = (found - inputs).astype(np.float64)[:, None]
    place = (moved * toward).sum(-1) / (toward**2).sum(-1)
    off = np.abs(moved - place[..., None] * toward).max(-1)
    best = off.argmin(1)
    assert off.min(1).max() < 1e-5
    weight = 1 - np.take_along_axis(place, best[:, None], 1)[:, 0]
    assert stats.kstest(np.clip(weight, 0, 1), stats.beta(alpha, alpha).cdf).pvalue > 0.01
    clear = weight < 0.9
    assert stats.chisquare(np.bincount(best[clear], minlength=30)).pvalue > 0.01


def test_mixup_rounds_bytes() -> None:
    """reference: blends of pixels by a loop, rounded to whole levels and never wrapped around."""
    _, _, data = CASES["mixup image"]
    draws = CounterRNG(ROWS, np.full(12, 7))
    weights = stats.beta(0.4, 0.4).ppf(draws.uniform(0))
    found = VIEWS["mixup"](data.inputs, draws, data.pool)
    for image, weight, share, after in zip(data.inputs, weights, draws.uniform(1), found, strict=True):
        partner = data.pool.inputs[TRAIN[int(share * 30)]]
        assert np.abs(after - (weight * image + (1 - weight) * partner.astype(float))).max() <= 0.5 + 1e-6
