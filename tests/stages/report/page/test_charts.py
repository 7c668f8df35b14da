"""The pictures: scales and ticks by property, points and lines where the figures say."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trials import a_trial

from distillery.ops.metrics import Interval
from distillery.stages.evaluation.record import ClassRow
from distillery.stages.promotion.gates import Verdict
from distillery.stages.report.page import history, models, quality, svg, words
from distillery.stages.report.record import Report, Study
from distillery.stages.roles import Role
from distillery.stages.search.record import Importances

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).filter(lambda v: v == 0 or abs(v) > 1e-6)
COSTS = st.floats(1e-4, 1e9)


def places(chart: Any, class_: str) -> list[tuple[float, float]]:
    """Corners of the line of a class."""
    (line,) = chart.all("polyline", class_)
    corners = [pair.split(",") for pair in line.attributes["points"].split()]
    return [(float(x), float(y)) for x, y in corners]


def at(point: Any) -> tuple[float, float]:
    """Where a point lies."""
    reach = point.all("circle", "reach")[0].attributes
    return float(reach["cx"]), float(reach["cy"])


@given(st.lists(NUMBERS, min_size=1, max_size=8))
def test_a_scale_holds_all_values_and_its_ticks(values: list[float]) -> None:
    """property: values and ticks lie inside, ticks rise and are few."""
    scale = svg.spanning(values, 100, 600)
    assert all(100 <= scale(v) <= 600 for v in values)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 6 and all(a < b for a, b in pairwise(ticks))
    assert all(99.999 <= scale(t) <= 600.001 for t in ticks)


@given(st.lists(COSTS, min_size=1, max_size=8))
def test_a_logarithmic_scale_holds_them_too(values: list[float]) -> None:
    """property: the same; equal ratios are equally far apart."""
    scale = svg.spanning(values, 100, 600, log=True)
    assert all(100 <= scale(v) <= 600 for v in values)
    ticks = scale.ticks()
    assert ticks and all(99.999 <= scale(t) <= 600.001 for t in ticks)
    low = scale.low
    assert scale(low * 4) - scale(low * 2) == pytest.approx(scale(low * 2) - scale(low))


def test_ticks_are_round_numbers() -> None:
    """golden."""
    assert svg.Scale(0.83, 0.91, 0, 1).ticks() == [0.84, 0.86, 0.88, 0.9]
    assert svg.Scale(0.04, 2.1, 0, 1, log=True).ticks() == [0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
    assert svg.Scale(400, 20e6, 0, 1, log=True).ticks() == [1e3, 1e4, 1e5, 1e6, 1e7]
    assert svg.Scale(-1, 5, 0, 1, whole=True).ticks(12) == [-1, 0, 1, 2, 3, 4, 5]


def test_an_element_escapes_its_attributes() -> None:
    """contract: quotes and brackets cannot end an attribute; floats are short; None is left out."""
    made = svg.tag("g", "<b>", class_='a"><script>', stroke_width=1 / 3, id=None)
    assert made == '<g class="a&quot;&gt;&lt;script&gt;" stroke-width="0.33"><b></g>'
    assert svg.text("<&", 1, 2) == '<text x="1" y="2">&lt;&amp;</text>'


@pytest.mark.parametrize("measure", models.QUALITIES)
@pytest.mark.parametrize("cost", models.COSTS)
def test_the_front_joins_what_nothing_beats(report: Report, read_page: Any, measure: Any, cost: Any) -> None:
    """reference: domination by comparing every pair; better is further left, and up or, for NLL, down."""
    chart = read_page(models.front_chart(report, measure, cost)).all("svg", "chart")[0]
    points = {at(p): p for p in chart.all("g", "point")}
    corners, sign = places(chart, "front-line"), -1 if measure == "accuracy" else 1
    rows = models.every_model(report)
    assert len(chart.all("g", "point")) == len(rows) == len(report.rows) + 1
    best = [
        r
        for r in rows
        if not any(
            o.cost(cost) <= r.cost(cost)
            and sign * o.quality(measure) <= sign * r.quality(measure)
            and (o.cost(cost), o.quality(measure)) != (r.cost(cost), r.quality(measure))
            for o in rows
        )
    ]
    on_line = [p for p in points if any(math.dist(p, c) < 0.02 for c in corners)]
    figures = {(words.fixed(r.accuracy), words.count(r.params)) for r in best}
    told = {i: points[i].all("title")[0].text for i in on_line}
    assert all(
        any(f"accuracy: {a}" in text and f"parameters: {p}" in text for text in told.values()) for a, p in figures
    )
    xs = [x for x, _ in corners]
    assert xs == sorted(xs)
    assert any(t.text == report.candidate.title for t in chart.all("text", "label"))


def test_a_model_without_a_cost_is_not_drawn(tree: dict[str, Any], read_page: Any) -> None:
    """edge: given logits have none; with none known there is no picture."""
    tree["rows"][0]["params"] = None
    chart = read_page(models.front_chart(Report.model_validate(tree), "nll", "params"))
    assert len(chart.all("g", "point")) == len(tree["rows"])
    for row in (*tree["rows"], *tree["served"]):
        row["latency_ms_p50"] = None
    assert models.front_chart(Report.model_validate(tree), "nll", "latency_ms_p50") == ""


TRIALS = [
    ("complete", 0.5, {}),
    ("complete", 0.4, {}),
    ("stopped", 9.0, {4: 9.0, 12: 9.0}),
    ("complete", 0.3, {}),
    ("stopped", 0.2, {4: 0.2}),
    ("complete", 0.6, {}),
]
STUDY = Study(
    study="x",
    objectives=("nll", "params"),
    ranked={"a": [3], "b": [1]},
    front=[],
    chosen="a",
    importances=Importances(of="nll", trials=0, shares={}),
    trials=[
        a_trial("ab"[number % 2], number=number, state=state, nll=nll, curve=curve, setting={"lr": number})
        for number, (state, nll, curve) in enumerate(TRIALS)
    ],
)


def test_the_history_marks_states_and_the_best_so_far(read_page: Any) -> None:
    """golden: the line falls at finished trials alone; what is far above, and what failed, is at the edge and tells."""
    lost = a_trial("a", number=6, state="fail", nll=None, accuracy=None, setting={"lr": 6}, reason="diverged")
    study = STUDY.model_copy(update={"trials": [*STUDY.trials, lost]})
    chart = read_page(history.history_chart(study)).all("svg", "chart")[0]
    points = chart.all("g", "point")
    told = [p.all("title")[0].text for p in points]
    assert "state: stopped after 12 epochs" in told[2] and "NLL: 9.0000" in told[2]
    assert "reason: diverged" in told[6] and "NLL" not in told[6]
    heights = [at(p)[1] for p in points]
    assert heights[2] < min(h for i, h in enumerate(heights) if i not in (2, 6))
    assert heights[6] == svg.TOP
    corners = places(chart, "best-line")
    levels = sorted({y for _, y in corners})
    assert levels == pytest.approx(sorted(heights[i] for i in (0, 1, 3)), abs=0.01)
    assert [y for _, y in corners] == sorted(y for _, y in corners)
    assert [m["name"] for m in history.marks(study)] == [
        "a",
        "b",
        "stopped by halving",
        "failed",
        "above the picture",
    ]
    assert [line.best for line in history.lines(STUDY)] == [False, True, False, True, False, False]


def test_intervals_lie_around_their_figures(read_page: Any) -> None:
    """property: a line's bar reaches from low to high on one scale, zero is marked."""
    found = {"up": Interval(0.1, 0.0, 0.2), "down": Interval(-0.1, -0.2, 0.0)}
    chart = read_page(quality.intervals_chart("Gain", found, ["", ""]))
    zero = float(chart.all("line", "zero")[0].attributes["x1"])
    first, second = ([float(b.attributes[k]) for k in ("x1", "x2")] for b in chart.all("line", "interval"))
    assert first[0] == second[1] == zero and first[1] - zero == pytest.approx(zero - second[0], abs=0.02)
    assert [at(p)[0] for p in chart.all("g", "point")] == pytest.approx([sum(first) / 2, sum(second) / 2], abs=0.02)
    assert quality.intervals_chart("Gain", {}, []) == ""


def test_a_gate_is_drawn_with_the_side_that_passes(read_page: Any) -> None:
    """property: the figure lies on the shaded side exactly if it passes."""
    for least, value in ((True, 0.5), (True, 0.1), (False, 0.5), (False, 0.1)):
        verdict = Verdict("", None, "nll", value, None, None, 0.3)
        picture = read_page(quality.gate_chart(verdict, least=least))
        side = {k: float(v) for k, v in picture.all("rect", "side")[0].attributes.items() if k in ("x", "width")}
        dot = float(picture.all("circle")[0].attributes["cx"])
        assert (side["x"] <= dot <= side["x"] + side["width"]) == ((value >= 0.3) == least)


def test_of_many_classes_the_largest_changes_are_drawn(report: Report, read_page: Any) -> None:
    """golden: in the order of the classes."""
    sizes = [(n * 7) % 60 for n in range(60)]
    rows = [
        ClassRow(name=str(n), rows=1, recall={}, change={Role.ENSEMBLE: Interval(-s / 100, -s / 100, 0.0)})
        for n, s in enumerate(sizes)
    ]
    many = report.model_copy(update={"by_class": rows})
    points = read_page(quality.changes_chart(many, Role.ENSEMBLE)).all("g", "point")
    names = [int(p.all("title")[0].text.split()[0]) for p in points]
    assert names == sorted(names) and len(names) == quality.MANY
    assert sorted(sizes[n] for n in names) == list(range(20, 60))


def test_disagreement_is_darker_where_it_is_more(read_page: Any) -> None:
    """property: opacity grows with the share; every pair is told."""
    chart = read_page(quality.disagreement_chart(["a", "<b>"], [[0.0, 0.2], [0.1, 0.0]]))
    cells = chart.all("rect", "cell")
    shades = [float(c.attributes["fill-opacity"]) for c in cells]
    assert shades[1] == 1 > shades[2] > shades[0] == shades[3]
    assert cells[1].all("title")[0].text == "a and <b>: differ on 20 %"


def test_numbers_are_written_as_people_do() -> None:
    """golden."""
    assert [words.seconds(s) for s in (None, 0.5, 61, 125, 7325)] == ["–", "0.5 s", "61 s", "2 min 05 s", "2 h 02 min"]
    assert words.interval(Interval(0.1, 0.0, 0.2)) == "+0.1000 [+0.0000, +0.2000]"
    assert words.interval(Interval(None, None, None, "no gap")) == "no gap"
    assert [words.money(m) for m in (0, 0.00001, 0.0123, 1234.5)] == ["0", "below 0.0001", "0.012", "1,234.50"]
    assert [svg.compact(v) for v in (0.05, 1500, 2.5e6)] == ["0.05", "1.5k", "2.5M"]
    assert words.setting(
        {"temperature": 4.0, "loss": {"name": "dkd", "beta": 2.0}, "unlabeled_fraction": None, "batch_size": 64}
    ) == {
        "T": "4",
        "loss": "dkd",
        "dkd.beta": "2",
        "batch size": "64",
    }
    assert not re.search("_", " ".join(words.setting({"warmup_epochs": 1.0})))
