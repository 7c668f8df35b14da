"""The report as a table: what a reader must find in it."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tiny_chain import FinishedChain

from distillery.flows.console.summary import summary
from distillery.flows.console.table import history_table, show
from distillery.flows.tracking.history import Entry
from distillery.stages.promotion.record import Promotion
from distillery.stages.report import assembly
from distillery.stages.report.record import Report
from distillery.store import Handle

SERVED = {"parity": 1e-7, "onnx_mb": 0.5, "request_ms_p50": 0.1, "request_ms_p95": 0.2, "request_ms_p99": 0.3}
REASON = "FAILED recovery: expected at least 0.8, got 0.5"
PROMOTION = Promotion(promoted=False, version=3, reasons=[REASON], gates=[], decisions=None)


@pytest.fixture
def tree(finished: FinishedChain) -> dict[str, Any]:
    """The report of the tiny chain as a tree of plain values that a test may change."""
    exported = Handle("export", "student", "/no/where", "0", {**SERVED, "requests_per_s": 9e4})
    stages = (finished.data, finished.ensemble, finished.search, finished.alone, finished.evaluation, exported)
    handles = [replace(finished.data, cached=True), replace(exported, cached=False)]
    report = assembly.assemble(finished.config, *stages, PROMOTION, handles, 12.5)
    return report.model_dump(mode="json")


def printed(tree: dict[str, Any]) -> str:
    """What a reader sees, in one line."""
    stream = io.StringIO()
    show(Report.model_validate(tree), Console(file=stream, width=200))
    return " ".join(stream.getvalue().split())


def summed_up(tree: dict[str, Any]) -> str:
    """The report in Markdown."""
    return summary(Report.model_validate(tree))


def test_every_model_is_in_the_table(tree: dict[str, Any]) -> None:
    """property: role, name and figures of each row; a dash where there is none."""
    tree["rows"][0]["params"] = None
    text = printed(tree)
    for row in Report.model_validate(tree).rows:
        name = f"{row.name} *" if row.chosen else row.name
        quality = " │ ".join(f"{getattr(row, k):.4f}" for k in ("accuracy", "nll", "brier", "ece"))
        params = "-" if row.params is None else f"{row.params:,}"
        assert f"{row.role.words} │ {name} │ {quality} │ {params} │" in text


def test_the_table_says_how_latency_was_measured(tree: dict[str, Any]) -> None:
    """golden: one encoded row, one thread and the runtime, by name where models differ; requests by their own name."""
    assert "latency of one encoded row on one thread, in onnxruntime" in printed(tree)
    assert "latency of one encoded row on one thread, in onnxruntime." in summed_up(tree)
    tree["rows"][0]["runtime"] = "scikit-learn"
    assert "in onnxruntime; teacher mlp-00 in scikit-learn" in printed(tree)
    requests = {"request_ms_p50": 0.125, "request_ms_p95": 0.2, "request_ms_p99": 0.3, "requests_per_s": 9e4}
    tree["served"] = [{"name": "int8", "accuracy": 0.5, "nll": 1.0, "ece": 0.1, "size_mb": 0.25, **requests}]
    assert "a whole request, preprocessing included, takes 0.125 ms (p50)" in printed(tree)


def test_the_judgement_is_printed(tree: dict[str, Any]) -> None:
    """golden: recovery against both baselines, seeds, the ensemble's reason, advice, decision and what was cached."""
    found = {"value": 0.5, "low": 0.25, "high": 0.75, "note": ""}
    none = {"value": None, "low": None, "high": None, "note": "gap not significant: [-1, 1]"}
    tree["gap_recovery"] = {
        "plain_baseline": {"accuracy": found, "nll": none},
        "tuned_baseline": {"accuracy": none, "nll": found},
    }
    of = [{"accuracy": share, "nll": 1.0} for share in (0.5, 0.25, 0.7)]
    tree["seeds"] = [{"student": of[0], "plain_baseline": of[1]}, {"student": of[2]}]
    text = printed(tree)
    assert "against the plain baseline: accuracy 50 % [25, 75], nll gap not significant: [-1, 1]" in text
    assert "against the tuned baseline: accuracy gap not significant: [-1, 1], nll 50 % [25, 75]" in text
    assert "accuracy over 2 seeds: student 0.6000 ± 0.1000, plain baseline 0.2500 ± 0.0000" in text
    assert f"ensemble: {tree['weights']['reason']}" in text
    assert f"to use: {tree['advice']['choice']}. {' '.join(tree['advice']['why'])}" in text
    assert f"tiny version 3: not promoted - {REASON}" in text
    assert text.endswith("12 s; found finished: data")
    assert "test rows have served" not in text
    tree["promotion"] = {**tree["promotion"], "promoted": True, "decisions": {"same_rows": 1, "all": 1}}
    assert (
        "- FAILED recovery: expected at least 0.8, got 0.5 These test rows have served 1 decision on promotion so far."
        in (printed(tree))
    )
    assert "tiny version 3: promoted to @champion" in printed(tree)


def test_seeds_of_all_networks_are_summed_up(tree: dict[str, Any]) -> None:
    """reference: mean and standard deviation by numpy."""
    values = [record["tuned_baseline"]["accuracy"] for record in tree["seeds"]]
    assert f"tuned baseline {np.mean(values):.4f} ± {np.std(values):.4f}" in printed(tree)


def test_the_winners_curse_is_printed_where_it_struck(tree: dict[str, Any]) -> None:
    """golden: both gains; nothing where the gain held."""
    tree["winners_curse"] = {"val_search": 0.25, "test": {"value": 0.125, "low": 0.1, "high": 0.2}, "shrank": True}
    assert (
        "winner's curse: the NLL gain over the baseline was 0.2500 on the rows that chose the setting, 0.1250 on test"
        in printed(tree)
    )
    tree["winners_curse"]["shrank"] = False
    assert "curse" not in printed(tree)


def test_candidate_ensembles_are_printed_with_their_gains(tree: dict[str, Any]) -> None:
    """property: a row for each, the one in use is marked."""
    text, used = printed(tree), tree["weights"]
    for row in used["candidates"]:
        name = f"{row['weighting']} *" if row["weighting"] == used["weighting"] else row["weighting"]
        name = name if row["pool"] == used["pool"] else row["weighting"]
        gain = f"{row['nll_gain']:+.4f} [{row['nll_gain_low']:+.4f}, {row['nll_gain_high']:+.4f}]"
        assert f"{name} │ {row['pool']} │ {row['accuracy']:.4f} │ {row['nll']:.4f} │ {gain} │" in text


def test_names_are_printed_as_they_are(tree: dict[str, Any]) -> None:
    """reference: what rich would take for markup, and a sequence that clears a terminal, from classes and columns."""
    names = ("[/b]", "[bold]x", "a\x1b[2Jb")
    tree["name"] = "[link=x]y"
    tree["promotion"]["reasons"] = [f"accuracy of class {name!s}" for name in names]
    tree["weights"]["reason"], tree["advice"]["choice"] = names[0], names[1]
    tree["rows"][0]["name"] = names[0]
    text = printed(tree)
    for reason in ("accuracy of class [/b]", "accuracy of class [bold]x", r"accuracy of class a\x1b[2Jb"):
        assert f"- {reason}" in text
    assert "ensemble: [/b]" in text and "to use: [bold]x. " in text and "│ teacher │ [/b] │" in text
    assert "[link=x]y: 300 test rows" in text and "[link=x]y version 3" in text and "\x1b" not in text


def test_a_history_is_printed_as_it_is() -> None:
    """reference: a reason that a person gave, and a user's name."""
    decided = ("2026-05-01T10:00:00", "[me]@host", None, "promoted by hand")
    entry = Entry(1, *decided, 2, None, ["[/b] x"], None, None, None)
    stream = io.StringIO()
    Console(file=stream, width=200).print(history_table("[n]", [entry], {"champion": 2}))
    assert "│ [/b] x │" in stream.getvalue() and "│ [me]@host │" in stream.getvalue()
    assert "[n]: champion version 2; times in UTC" in stream.getvalue()


def test_the_markdown_holds_verdict_tables_and_groups(tree: dict[str, Any]) -> None:
    """golden: decision and advice first, gates as stored, a line per choice, model, disturbance and group."""
    found = {"value": 0.0, "low": 0.0, "high": 0.0, "note": ""}
    tree["groups"] = {
        "table": [{"column": "sex", "value": "f", "rows": 7, "accuracy": {"student": 0.5, "ensemble": 0.75}}],
        "worst": found,
    }
    text = summed_up(tree)
    assert text.startswith(f"**Version 3 was not promoted. To use: {tree['advice']['choice']}.** ")
    assert "The choice rests on val_search, promotion on test." in text
    kept = summed_up({**tree, "mlflow_run": {"id": "1", "url": "", "report": "http://host/#/report.html"}})
    assert kept.split("\n\n")[1] == "[The whole report, with pictures](http://host/#/report.html)"
    assert "\n- FAILED recovery: expected at least 0.8, got 0.5\n" in text
    for row in tree["rows"]:
        assert (
            f"| {row['role'].replace('_', ' ')} | " in text and f"| {row['accuracy']:.4g} | {row['nll']:.4g} |" in text
        )
    for row in tree["robustness"]:
        assert f"| {row['disturbance']} | {row['candidate']:.4g} | {row['ensemble']:.4g} |" in text
    assert all(f"\n| {name} | " in text for name in tree["advice"]["options"])
    assert "| sex = f | 7 | 0.5 | 0.75 |" in text
    assert tree["robustness"]
    tree["groups"]["table"][0]["value"] = "a|<img src=x>"
    text = summed_up({**tree, "promotion": {**tree["promotion"], "reasons": ["<b>"]}})
    assert r"| sex = a\|&lt;img src=x&gt; | 7 | 0.5 | 0.75 |" in text and "\n- &lt;b&gt;\n" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") >= 4 for line in lines)
