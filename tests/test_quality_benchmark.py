"""The quality benchmark's own arithmetic: intervals over seeds, goals, and gap recovery over seeds and rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import quality
from scipy import stats


def test_rows_have_a_t_interval_over_seeds() -> None:
    """reference: scipy's own interval of a mean; a single value has none."""
    results, values = quality.Results(), [0.81, 0.84, 0.80, 0.85]
    results.row("data", "method", values, "accuracy")
    results.row("data", "method", values[:1], "accuracy")
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert results.rows[0]["low"] == pytest.approx(low) and results.rows[0]["high"] == pytest.approx(high)
    assert results.rows[1]["low"] is None and results.rows[1]["mean"] == 0.81


def test_goals_are_met_or_missed() -> None:
    """golden: at least and at most, the limit included."""
    results = quality.Results()
    for value, limit, least in ((1.0, 1.0, True), (0.9, 1.0, True), (0.2, 0.2, False), (0.3, 0.2, False)):
        results.goal("1", "text", value, limit, least=least)
    assert [goal["met"] for goal in results.goals] == [True, False, True, False]


def test_gap_recovery_is_a_ratio_of_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: mean gains over seeds, divided; the interval holds it, and is wider with few rows."""
    generator = np.random.default_rng(0)

    def simulated(rows: int) -> list[dict[str, list[np.ndarray]]]:
        means = (0.9, 0.8, 0.85)
        return [{"accuracy": [generator.normal(m, 0.3, rows) for m in means]} for _ in range(4)]

    widths = []
    for rows in (200, 4000):
        held = simulated(rows)
        monkeypatch.setattr(quality, "per_row", lambda report, names, held=held: held[report])
        reports: Any = list(range(4))
        centre, low, high = quality.recovery(reports, "plain baseline", "accuracy")
        student, alone, whole = np.mean([[v.mean() for v in h["accuracy"]] for h in held], axis=0)
        assert centre == pytest.approx((student - alone) / (whole - alone))
        assert low <= centre <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2
