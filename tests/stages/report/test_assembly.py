"""The report: everything in one tree, and nothing that the stages did not say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reports import without_timing
from tiny_chain import FinishedChain

from distillery.config.config_file import parse
from distillery.stages.ensemble.record import EnsembleChoice
from distillery.stages.evaluation.record import ModelComparison
from distillery.stages.promotion.gates import Verdict
from distillery.stages.promotion.record import Promotion
from distillery.stages.report import assembly
from distillery.stages.report.advice import advise
from distillery.stages.report.record import Report, ReportRow
from distillery.stages.search.importances import importances
from distillery.stages.search.student_search import baseline_knobs
from distillery.store import Handle

REQUESTS = {"request_ms_p50": 0.1, "request_ms_p95": 0.2, "request_ms_p99": 0.3, "requests_per_s": 9e4}
EXPORT = Handle("export", "large-student", "/no/where", "0", {"parity": 1e-7, "onnx_mb": 0.5, **REQUESTS}, 3.0)
SLOW = Verdict("latency ms p50: expected at most 1, got 0.1", True, "latency_ms_p50", 0.1, 0.1, 0.1, 1.0)
CALIBRATED = Verdict("ece: expected at most 1, got 0.1", True, "ece", 0.1, 0.1, 0.1, 1.0)
PROMOTION = Promotion(
    promoted=True,
    version=3,
    reasons=[f"passed {SLOW.text}", f"passed {CALIBRATED.text}", "there is no champion yet"],
    gates=[SLOW, CALIBRATED],
    decisions=None,
)


@pytest.fixture
def assembled(finished: FinishedChain) -> Report:
    """The report of the tiny chain, of which two members were found finished."""
    first, *others = finished.members
    handles = [finished.data, first, *(replace(m, cached=True) for m in others), EXPORT, replace(EXPORT, cached=True)]
    handles.append(replace(finished.ensemble, cached=True))
    parts = (finished.data, finished.ensemble, finished.search, finished.alone, finished.evaluation, EXPORT)
    return assembly.assemble(finished.config, *parts, PROMOTION, handles, 12.5)


@pytest.fixture
def tree(assembled: Report) -> dict[str, Any]:
    """The report as a tree of plain values that a test may change."""
    return assembled.model_dump(mode="json")


def test_the_report_is_plain_json(assembled: Report, tmp_path: Path) -> None:
    """property: to a file and back is the same record, and the config in it is the experiment."""
    assembled.write(tmp_path)
    assert Report.read(tmp_path) == assembled
    assert parse(assembled.config).name == assembled.name == "tiny"


def test_the_report_is_what_the_stages_say(finished: FinishedChain, assembled: Report) -> None:
    """reference: rows, recovery, trials and weights from the stages' own records."""
    judged = finished.evaluated
    for name in (*(field for field in ModelComparison.model_fields if field != "rows"), "classes"):
        assert getattr(assembled, name) == getattr(judged, name)
    knobs = (finished.config.search, baseline_knobs(finished.config))
    studies = (assembled.search, assembled.baseline_search)
    for result, own, study in zip((finished.searched, finished.searched_alone), knobs, studies, strict=True):
        for name in ("trials", "front", "ranked", "chosen", "study", "objectives"):
            assert getattr(study, name) == getattr(result, name)
        assert study.importances == importances(result.trials, own, "nll")
    names = [name for name, _, _ in finished.config.teachers.each()]
    assert list(assembled.teachers) == names == [m.name for m in finished.members]
    assert assembled.teachers[names[0]].recipe["lr"] == 0.005
    choice = EnsembleChoice.read(finished.ensemble)
    assert assembled.weights.members == choice.weights
    assert assembled.weights.candidates == choice.table
    for name in ("reason", "notes", "left_out"):
        assert getattr(assembled.weights, name) == getattr(choice, name)
    assert assembled.promotion == PROMOTION and assembled.export.model_dump() == EXPORT.metrics
    assert assembled.data.test_rows_digest == judged.test_rows_digest
    assert assembled.data.rows["test"] == 300 and assembled.data.skipped_rows == []


def test_the_candidate_has_the_figures_of_its_export(finished: FinishedChain, assembled: Report) -> None:
    """golden: they stand in its row and in no other; every other row is the evaluation's."""
    for row, judged in zip(assembled.rows, finished.evaluated.rows, strict=True):
        more = {"onnx_mb": 0.5, **REQUESTS} if judged == finished.evaluated.candidate else {}
        assert row == ReportRow(**dict(judged), **more)
    assert assembled.candidate.onnx_mb == 0.5


def first_of(finished: FinishedChain) -> float:
    """Seconds of the one member that was not found finished."""
    return float(finished.members[0].seconds)


def test_time_is_counted_once(finished: FinishedChain, assembled: Report) -> None:
    """golden: seconds are summed by stage over different results; a stage is cached if all of its parts were."""
    seconds = assembled.seconds
    assert seconds["teachers"] == pytest.approx(sum(m.seconds for m in finished.members))
    assert (seconds["export"], seconds["total"]) == (3.0, 12.5)
    stages = assembled.ledger.stages
    assert stages["teachers"].computed == first_of(finished) and stages["ensemble"].computed == 0
    assert {k: v.computed + v.found for k, v in stages.items()} == {k: v for k, v in seconds.items() if k != "total"}
    assert assembled.cached == ["ensemble"]


def test_equal_runs_have_equal_reports_without_timing(assembled: Report, tree: dict[str, Any]) -> None:
    """property: what the clock decides is left out and nothing else; the report itself stays whole."""
    tree["seconds"]["total"], tree["cached"] = 99.0, []
    tree["mlflow_run"] = {"id": "another", "url": "", "report": ""}
    tree["ledger"]["computed"], tree["price_per_hour"] = 7.0, 2.0
    for row in tree["rows"]:
        row["latency_ms_p50"], row["throughput_per_s"] = 1.0, 2.0
    tree["export"]["request_ms_p50"] = 7.0
    for key in ("search", "baseline_search"):
        tree[key]["trials"][0]["seconds"] = 5.0
        tree[key]["trials"][0]["latency_ms_p50"] = 6.0
    tree["compression"]["latency"], tree["advice"]["choice"] = 3.0, "another"
    tree["promotion"]["gates"][0]["text"] = "latency ms p50: expected at most 1, got 0.2"
    tree["promotion"]["reasons"][0] = "passed latency ms p50: expected at most 1, got 0.2"
    other = Report.model_validate(tree)
    assert other != assembled and without_timing(other) == without_timing(assembled)
    tree["rows"][0]["nll"] += 0.1
    assert without_timing(Report.model_validate(tree)) != without_timing(assembled)


@pytest.mark.parametrize("change", ["passes", "reliability", "reasons", "gates", "seeds", "gains", "baseline_search"])
def test_unequal_runs_have_unequal_reports(assembled: Report, tree: dict[str, Any], change: str) -> None:
    """property: a judgement that differs shows."""
    if change == "passes":
        tree["passes"]["made"] += 1
    elif change == "reliability":
        tree["reliability"]["student"]["share"][0] += 0.1
    elif change == "reasons":
        tree["promotion"]["reasons"][1] = "FAILED"
    elif change == "gates":
        tree["promotion"]["gates"][1]["passed"] = False
    elif change == "seeds":
        tree["seeds"][0]["student"]["nll"] += 0.1
    elif change == "gains":
        tree["gains"]["ensemble"]["nll"]["low"] -= 1
    else:
        tree["baseline_search"]["trials"][0]["nll"] += 0.1
    assert without_timing(Report.model_validate(tree)) != without_timing(assembled)


def test_the_advice_keeps_the_budget_of_the_search(finished: FinishedChain, assembled: Report) -> None:
    """reference: the advice about this very report, for the latency that the config allows."""
    judged = finished.evaluated
    weighting = assembled.weights.weighting
    assert assembled.advice == advise(judged, PROMOTION, weighting, assembled.seconds, None)
    search = finished.config.search.model_copy(update={"max_latency_ms": 1e-6})
    config = finished.config.model_copy(update={"search": search})
    parts = (finished.data, finished.ensemble, finished.search, finished.alone, finished.evaluation, EXPORT)
    why = assembly.assemble(config, *parts, PROMOTION, [], 1.0).advice.why
    assert any(sentence.startswith("Budget 1e-06 ms: missed by ") for sentence in why)
