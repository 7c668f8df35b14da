"""Figures against scikit-learn and loops, and intervals against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax, xlogy
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, recall_score

from distillery.ops import metrics

SEEDS = st.integers(0, 9999)


def answers(seed: int, rows: int = 60, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, C] that know something, and labels [N] of which every class has some."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(rows) % classes)
    logits = generator.normal(size=(rows, classes)) * 2 + np.eye(classes)[labels]
    return logits.astype(np.float32), labels


@given(SEEDS, st.integers(2, 6))
def test_quality_is_sklearns(seed: int, classes: int) -> None:
    """reference: accuracy and log loss by scikit-learn, the Brier score by a loop."""
    logits, labels = answers(seed, classes=classes)
    probs = softmax(logits.astype(np.float64), axis=-1)
    found = metrics.quality(logits, labels)
    assert found["accuracy"] == accuracy_score(labels, logits.argmax(-1))
    assert found["nll"] == pytest.approx(log_loss(labels, probs))
    by_loop = [sum((p - (c == y)) ** 2 for c, p in enumerate(row)) for row, y in zip(probs, labels, strict=True)]
    assert found["brier"] == pytest.approx(np.mean(by_loop))
    assert found["nll"] == pytest.approx(metrics.row_nll(logits, labels).mean())


@pytest.mark.parametrize("temperature", [1.0, 0.3, 4.0])
def test_nll_is_that_of_log_softmax(temperature: float) -> None:
    """reference: scipy on all rows at once, which are more than a block."""
    generator = np.random.default_rng(0)
    logits, labels = 5 * generator.normal(size=(50, 4000)), generator.integers(0, 4000, 50)
    assert len(list(metrics.row_blocks(50, 4000))) > 1
    expected = -log_softmax(logits / temperature, axis=-1)[np.arange(50), labels]
    np.testing.assert_allclose(metrics.row_nll(logits, labels, temperature), expected, rtol=1e-12)
    np.testing.assert_allclose(metrics.row_scores(logits / temperature, labels).nll, expected, rtol=1e-12)


def test_blocks_hold_every_row_once() -> None:
    """property: in order, each as large as it may be, and a row alone where it is larger."""
    for numbers, block_bytes in ((10, 8 * 30), (10, 8 * 39), (10, 7), (0, 8)):
        parts = list(metrics.row_blocks(20, numbers, block_bytes))
        assert np.concatenate([np.arange(p.start, p.stop) for p in parts]).tolist() == list(range(20))
        sizes = {p.stop - p.start for p in parts[:-1]}
        assert sizes <= {max(1, block_bytes // (8 * max(1, numbers)))}


@given(SEEDS)
def test_counts_are_sklearns(seed: int) -> None:
    """reference: confusion matrix, recalls and agreement."""
    logits, labels = answers(seed)
    other, _ = answers(seed + 1)
    top = logits.argmax(-1)
    assert np.array_equal(metrics.confusion(logits, labels), confusion_matrix(labels, top, labels=range(4)))
    assert metrics.recall_by_class(logits, labels) == pytest.approx(list(recall_score(labels, top, average=None)))
    assert metrics.agreement(logits, other) == accuracy_score(top, other.argmax(-1))
    assert metrics.recall_by_class(logits, np.where(labels == 2, 0, labels))[2] is None


def test_extreme_logits_stay_finite() -> None:
    """property: a sure and wrong answer costs much, not infinity; a constant per row costs nothing."""
    logits, labels = np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([1, 1])
    assert metrics.row_nll(logits, labels).tolist() == [1e4, 0.0]
    assert metrics.brier(logits, labels) == pytest.approx(1.0)
    shifted = metrics.row_nll(logits + 500, labels)
    assert shifted.tolist() == [1e4, 0.0]


def test_calibration_error_by_hand() -> None:
    """golden: two bins of two rows: |0.6 - 0.5| and |0.9 - 1|, half of the rows each."""
    confidence = np.array([0.6, 0.6, 0.9, 0.9])
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1))
    labels = np.array([0, 1, 0, 0])
    assert metrics.ece(logits, labels, bins=2) == pytest.approx(0.1)


@given(SEEDS, st.integers(1, 80), st.integers(1, 30))
def test_bins_partition_the_rows(seed: int, rows: int, bins: int) -> None:
    """property: shares sum to one and differ by a row at most, confidence rises, means are of all rows."""
    logits, labels = answers(seed, rows)
    confidence, correct, share = metrics.reliability(logits, labels, bins)
    assert len(share) == min(bins, rows) and share.sum() == pytest.approx(1)
    assert (share.max() - share.min()) * rows < 1 + 1e-9
    assert (np.diff(confidence) >= -1e-12).all()
    assert (share * correct).sum() == pytest.approx(metrics.row_correct(logits, labels).mean())
    assert 0 <= metrics.ece(logits, labels, bins) <= 1


def test_intervals_cover_as_often_as_they_say() -> None:
    """reference: by simulation, intervals at 90 % hold the true difference in 84 to 96 % of 200 repetitions."""
    generator = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        shared = generator.normal(size=200)
        a, b = shared + generator.exponential(1.0, 200), shared + generator.normal(size=200)
        found = metrics.paired_difference(a, b, resamples=300, confidence=0.9, seed=seed)
        held += found.low <= 1.0 <= found.high
    assert 0.84 <= held / 200 <= 0.96


def test_a_difference_is_paired() -> None:
    """property: what both have in common does not widen the interval; the same seed gives the same one."""
    generator = np.random.default_rng(1)
    a, noise = generator.normal(size=300), 10 * generator.normal(size=300)
    settings = {"resamples": 500, "confidence": 0.95, "seed": 3}
    plain, common = (
        metrics.paired_difference(a, 0 * a, **settings),
        metrics.paired_difference(a + noise, noise, **settings),
    )
    assert plain.value == pytest.approx(a.mean()) and plain.low < plain.value < plain.high
    assert (common.low, common.high) == pytest.approx((plain.low, plain.high))
    assert metrics.paired_difference(a, 0 * a, **settings) == plain
    assert metrics.paired_difference(a, a - 0.0, **settings) == metrics.Interval(0.0, 0.0, 0.0)


def pairs(won: int, lost: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Right answers [N] of two models, of which each alone is right on so many rows."""
    one, other = np.zeros(rows), np.zeros(rows)
    one[:won] = 1
    other[won : won + lost] = 1
    return one, other


def score(won: int, lost: int, rows: int, difference: float) -> float:
    """Standard errors between what was seen and `difference`, by the likeliest shares that have it."""

    def minus_likelihood(gained: float) -> float:
        shares = np.array([gained, gained - difference, 1 - 2 * gained + difference])
        return -float(xlogy([won, lost, rows - won - lost], np.maximum(shares, 1e-300)).sum())

    bounds = (max(0.0, difference), (1 + difference) / 2)
    gained = minimize_scalar(minus_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    variance = (2 * gained - difference - difference**2) / rows
    return float(((won - lost) / rows - difference) / np.sqrt(variance))


@pytest.mark.parametrize(("won", "lost", "rows"), [(0, 0, 30), (3, 1, 40), (12, 2, 14), (0, 5, 60), (9, 3, 1000)])
def test_ends_of_a_difference_of_shares_are_where_its_score_is_z(won: int, lost: int, rows: int) -> None:
    """reference: the score test of each end, with the likeliest shares by scipy's search, is at z."""
    z = 1.959964
    low, high = metrics.share_difference_ends(won, lost, rows, z)
    assert score(won, lost, rows, float(low)) == pytest.approx(z, rel=1e-3)
    assert score(won, lost, rows, float(high)) == pytest.approx(-z, rel=1e-3)


def test_rows_that_all_agree_leave_an_interval() -> None:
    """golden: z² / (N + z²) to each side, as Wilson's; all rows won leave room below alone."""
    found = metrics.paired_share_difference(*pairs(0, 0, 30), confidence=0.95)
    assert (found.value, found.low, found.high) == pytest.approx((0, -3.8415 / 33.8415, 3.8415 / 33.8415), abs=1e-5)
    won = metrics.paired_share_difference(*pairs(30, 0, 30), confidence=0.95)
    assert won.value == 1.0 and won.high == 1.0 and won.low is not None and 0.7 < won.low < 0.8
    several = metrics.share_difference_ends(np.array([0, 3]), np.array([0, 1]), np.array([30, 40]), 1.96)
    assert all(end.shape == (2,) for end in several)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(40, 200))
def test_ends_change_sides_with_the_models(won: int, lost: int, rows: int) -> None:
    """property: the interval holds the value, and is mirrored where the models change places."""
    found = metrics.paired_share_difference(*pairs(won, lost, rows), confidence=0.9)
    back = metrics.paired_share_difference(*pairs(lost, won, rows), confidence=0.9)
    assert found.low < found.value < found.high
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize("rows", [30, 60, 100])
def test_a_loss_of_three_points_seldom_passes_a_gate_of_one(rows: int) -> None:
    """reference: by simulation, the lower end of a true loss of 3 points is above -1 in 2.5 % of data sets at most.

    Percentiles of a bootstrap of so few rows often have no width: they passed in 38, 17 and 6 % of them.
    """
    generator = np.random.default_rng(rows)
    drawn = generator.random((2000, rows))
    won, lost = (drawn < 0.01).sum(1), (drawn > 0.96).sum(1)
    low, _ = metrics.share_difference_ends(won, lost, rows, 1.959964)
    assert (low >= -0.01).mean() <= 0.025
    assert (low <= -0.03).mean() >= 0.96


def test_a_bounded_difference_has_a_width() -> None:
    """golden: rows that all agree leave an interval where it is told how far a row could go; else they do not."""
    settings = {"resamples": 1000, "confidence": 0.95}
    nothing = np.zeros(30)
    assert metrics.paired_difference(nothing, nothing, **settings) == metrics.Interval(0.0, 0.0, 0.0)
    found = metrics.paired_difference(nothing, nothing, **settings, largest=2)
    assert found.value == 0 and -0.3 < found.low < -0.05 and 0.05 < found.high < 0.3
    many = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], 5000)
    plain = metrics.paired_difference(many, 0 * many, **settings)
    wider = metrics.paired_difference(many, 0 * many, **settings, largest=2)
    assert (wider.value, wider.low, wider.high) == pytest.approx((plain.value, plain.low, plain.high), abs=5e-3)


@pytest.mark.parametrize("share", [-0.5, 0.0, 0.25, 1.0, 1.5])
def test_gap_recovery_of_known_shares(share: float) -> None:
    """golden: a student `share` of the way from its baseline to the ensemble, on every row, recovers that share."""
    generator = np.random.default_rng(2)
    baseline = generator.normal(size=400)
    ensemble = baseline + generator.exponential(0.5, 400)
    student = baseline + share * (ensemble - baseline)
    found = metrics.gap_recovery(student, baseline, ensemble, resamples=300, confidence=0.95)
    assert (found.value, found.low, found.high) == pytest.approx((share,) * 3, abs=1e-9)


@given(SEEDS)
def test_gap_recovery_does_not_care_for_scale(seed: int) -> None:
    """property: the same in any unit; the value is the ratio of the means."""
    generator = np.random.default_rng(seed)
    baseline, ensemble, student = generator.normal(size=(3, 200)) + np.array([[0.0], [1.0], [0.6]])
    settings = {"resamples": 100, "confidence": 0.9}
    found = metrics.gap_recovery(student, baseline, ensemble, **settings)
    scaled = metrics.gap_recovery(7 * student, 7 * baseline, 7 * ensemble, **settings)
    ratio = (student.mean() - baseline.mean()) / (ensemble.mean() - baseline.mean())
    assert found.value == pytest.approx(ratio) and found.low <= found.value <= found.high
    assert (scaled.value, scaled.low, scaled.high) == pytest.approx((found.value, found.low, found.high))


@pytest.mark.parametrize("gap", [0.0, 0.02])
def test_a_gap_that_may_be_chance_has_no_recovery(gap: float) -> None:
    """contract: where the ensemble is not clearly apart from the baseline, there is no figure and the note says so."""
    generator = np.random.default_rng(3)
    baseline = generator.normal(size=200)
    ensemble = baseline + gap + (generator.normal(size=200) if gap else 0.0)
    found = metrics.gap_recovery(baseline, baseline, ensemble, resamples=200, confidence=0.95)
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.note.startswith("gap not significant: [")
    behind = metrics.gap_recovery(baseline, baseline, baseline - 1, resamples=200, confidence=0.95)
    assert behind.value is None and behind.note == "no gap, the ensemble is behind the baseline: [-1, -1]"


@pytest.mark.parametrize(("rows", "blocks"), [(7, 5000), (300, 5000), (5000, 5000), (5003, 1000)])
def test_the_bootstrap_is_scipys(rows: int, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: the ends agree with scipy's percentile bootstrap to its own noise, whether rows are drawn or blocks of
    them; kept draws or not, the same."""
    monkeypatch.setattr(metrics, "BLOCKS", blocks)
    a = np.sort(np.random.default_rng(rows).exponential(size=rows))
    found = metrics.paired_difference(a, 0 * a, resamples=4000, confidence=0.9)
    theirs = stats.bootstrap((a,), np.mean, n_resamples=4000, confidence_level=0.9, method="percentile", rng=1)
    noise = 4 * theirs.standard_error / np.sqrt(4000 * 0.05)
    ends = theirs.confidence_interval
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), abs=2 * noise)
    monkeypatch.setattr(metrics, "KEPT", 0)
    assert metrics.paired_difference(a, 0 * a, resamples=4000, confidence=0.9) == found


def _three(generator: np.random.Generator, gap: float, share: float) -> np.ndarray:
    """Student, baseline and ensemble [3, 250]: dependent rows, means `share` · `gap`, 0 and `gap`."""
    shared = generator.normal(size=250)
    means = np.array([[share * gap], [0.0], [gap]])
    return shared + generator.normal(size=(3, 250)) + means


def test_gap_recovery_covers_as_often_as_it_says() -> None:
    """reference: by simulation, intervals at 90 % hold the true share of 0.6 in 84 to 96 % of 300 data sets."""
    generator, held = np.random.default_rng(5), 0
    for seed in range(300):
        found = metrics.gap_recovery(*_three(generator, 0.8, 0.6), resamples=200, confidence=0.9, seed=seed)
        assert found.low is not None and found.high is not None
        held += found.low <= 0.6 <= found.high
    assert 0.84 <= held / 300 <= 0.96


def test_a_gap_of_zero_is_not_significant_as_often_as_it_says() -> None:
    """reference: by simulation, without a gap the note is given for 84 to 96 % of 300 data sets at 90 %."""
    generator, noted = np.random.default_rng(6), 0
    for seed in range(300):
        found = metrics.gap_recovery(*_three(generator, 0.0, 0.0), resamples=200, confidence=0.9, seed=seed)
        noted += found.note.startswith("gap not significant") and found.value is None
    assert 0.84 <= noted / 300 <= 0.96


def test_a_resample_without_a_gap_does_not_undo_the_interval() -> None:
    """golden: where 5 of 20 rows make the gap, some resamples hold none of them; the interval is finite."""
    baseline, ensemble = np.zeros(20), np.repeat([1.0, 0.0], [5, 15])
    student = np.repeat([1.0, 0.0], [3, 17])
    found = metrics.gap_recovery(student, baseline, ensemble, resamples=2000, confidence=0.95)
    assert found.value == pytest.approx(0.6) and found.low is not None and found.high is not None
    rounding = 1e-9
    assert -rounding <= found.low < 0.6 < found.high <= 1 + rounding
