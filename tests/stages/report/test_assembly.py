"""The report: everything in one tree, and nothing that the stages did not say."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from tiny_chain import FinishedChain

from distillery.config.config_file import parse
from distillery.stages.ensemble.record import EnsembleChoice
from distillery.stages.report import assembly
from distillery.stages.report.advice import advise
from distillery.stages.search.importances import importances
from distillery.stages.search.student_search import baseline_knobs
from distillery.store import Handle

EXPORT = Handle(
    "export", "large-student", "/no/where", "0", {"parity": 1e-7, "onnx_mb": 0.5, "request_ms_p50": 0.1}, 3.0
)
SLOW = {"figure": "latency_ms_p50", "text": "latency ms p50: expected at most 1, got 0.1", "passed": True}
CALIBRATED = {"figure": "ece", "text": "ece: expected at most 1, got 0.1", "passed": True}
PROMOTION = {
    "promoted": True,
    "version": 3,
    "reasons": [f"passed {SLOW['text']}", f"passed {CALIBRATED['text']}", "there is no champion yet"],
    "gates": [SLOW, CALIBRATED],
}


@pytest.fixture
def assembled(finished: FinishedChain) -> dict[str, Any]:
    """The report of the tiny chain, of which two members were found finished."""
    first, *others = finished.members
    handles = [finished.data, first, *(replace(m, cached=True) for m in others), EXPORT, replace(EXPORT, cached=True)]
    handles.append(replace(finished.ensemble, cached=True))
    parts = (finished.data, finished.ensemble, finished.search, finished.alone, finished.evaluation, EXPORT)
    return assembly.assemble(finished.config, *parts, copy.deepcopy(PROMOTION), handles, 12.5)


def test_the_report_is_plain_json(assembled: dict[str, Any]) -> None:
    """property: to JSON and back is the same tree, and the config in it is the experiment."""
    assert json.loads(json.dumps(assembled)) == assembled
    assert parse(assembled["config"]).name == assembled["name"] == "tiny"


def test_the_report_is_what_the_stages_say(finished: FinishedChain, assembled: dict[str, Any]) -> None:
    """reference: rows, recovery, trials and weights from the stages' own files."""
    judged, found = finished.evaluation.json("evaluation.json"), finished.search.json("search.json")
    for key in (*assembly.JUDGED, "classes"):
        assert assembled[key] == judged[key]
    assert {"gap_recovery", "gains", "seeds", "groups", "robustness", "optimism"} < set(assembly.JUDGED)
    for key in ("trials", "front", "ranked", "chosen", "study", "objectives"):
        assert assembled["search"][key] == found[key]
    alone = finished.alone.json("search.json")
    knobs = {"search": finished.config.search, "baseline_search": baseline_knobs(finished.config)}
    for key, study in (("search", found), ("baseline_search", alone)):
        assert assembled[key].pop("importances") == importances(study["trials"], knobs[key], "nll")
    assert assembled["baseline_search"] == {k: alone[k] for k in ("study", "objectives", "trials", "ranked")}
    names = [name for name, _, _ in finished.config.teachers.each()]
    assert list(assembled["teachers"]) == names == [m.name for m in finished.members]
    assert assembled["teachers"][names[0]]["recipe"]["lr"] == 0.005
    pooled = finished.ensemble.json("ensemble.json")
    assert assembled["weights"]["members"] == EnsembleChoice.read(finished.ensemble).weights
    assert assembled["weights"]["candidates"] == pooled["table"]
    for key in ("reason", "notes", "left_out"):
        assert assembled["weights"][key] == pooled[key]
    assert assembled["promotion"] == PROMOTION and assembled["export"] == EXPORT.metrics
    assert assembled["data"]["test_rows_digest"] == judged["test_rows_digest"]
    assert assembled["data"]["rows_test"] == 300 and assembled["data"]["skipped_rows"] == []


def test_the_chosen_student_has_the_figures_of_its_export(finished: FinishedChain, assembled: dict[str, Any]) -> None:
    """golden: they stand in its row and in no other; every other row is the evaluation's."""
    for row, judged in zip(assembled["rows"], finished.evaluation.json("evaluation.json")["rows"], strict=True):
        is_served = row["role"] == "student" and row["chosen"]
        more = {"onnx_mb": 0.5, "request_ms_p50": 0.1} if is_served else {}
        assert row == {**judged, **more}


def first_of(finished: FinishedChain) -> float:
    """Seconds of the one member that was not found finished."""
    return float(finished.members[0].seconds)


def test_time_is_counted_once(finished: FinishedChain, assembled: dict[str, Any]) -> None:
    """golden: seconds are summed by stage over different results; a stage is cached if all of its parts were."""
    seconds = assembled["seconds"]
    assert seconds["teachers"] == pytest.approx(sum(m.seconds for m in finished.members))
    assert (seconds["export"], seconds["total"]) == (3.0, 12.5)
    stages = assembled["ledger"]["stages"]
    assert stages["teachers"]["computed"] == first_of(finished) and stages["ensemble"]["computed"] == 0
    assert {k: v["computed"] + v["found"] for k, v in stages.items()} == {
        k: v for k, v in seconds.items() if k != "total"
    }
    assert assembled["cached"] == ["ensemble"]


def test_equal_runs_have_equal_reports_without_timing(assembled: dict[str, Any]) -> None:
    """property: what the clock decides is left out and nothing else; the report itself stays whole."""
    other = copy.deepcopy(assembled)
    other["seconds"]["total"], other["cached"], other["mlflow_run"] = 99.0, [], "another"
    other["ledger"], other["price_per_hour"] = {}, 2.0
    for row in other["rows"]:
        row["latency_ms_p50"], row["throughput_per_s"] = 1.0, 2.0
    other["export"] = {**other["export"], "request_ms_p50": 7.0}
    for key in ("search", "baseline_search"):
        other[key]["trials"][0]["seconds"] = 5.0
        other[key]["trials"][0]["latency_ms_p50"] = 6.0
    other["compression"]["latency"], other["advice"] = 3.0, {"choice": "another"}
    other["promotion"]["gates"][0] = {**SLOW, "text": "latency ms p50: expected at most 1, got 0.2"}
    other["promotion"]["reasons"][0] = "passed latency ms p50: expected at most 1, got 0.2"
    assert assembly.without_timing(other) == assembly.without_timing(assembled) != assembled
    assert "seconds" in assembled and "latency_ms_p50" in assembled["rows"][0]
    other["rows"][0]["nll"] += 0.1
    assert assembly.without_timing(other) != assembly.without_timing(assembled)


@pytest.mark.parametrize("change", ["passes", "reliability", "reasons", "gates", "seeds", "gains", "baseline_search"])
def test_unequal_runs_have_unequal_reports(assembled: dict[str, Any], change: str) -> None:
    """property: a judgement that differs shows."""
    other = copy.deepcopy(assembled)
    if change == "passes":
        other["passes"]["made"] += 1
    elif change == "reliability":
        other["reliability"]["student"]["share"][0] += 0.1
    elif change == "reasons":
        other["promotion"]["reasons"][1] = "FAILED"
    elif change == "gates":
        other["promotion"]["gates"][1]["passed"] = False
    elif change == "seeds":
        other["seeds"][0]["students_nll"] += 0.1
    elif change == "gains":
        other["gains"]["ensemble"]["nll"]["low"] -= 1
    else:
        other["baseline_search"]["trials"][0]["nll"] += 0.1
    assert assembly.without_timing(other) != assembly.without_timing(assembled)


def test_the_advice_keeps_the_budget_of_the_search(finished: FinishedChain, assembled: dict[str, Any]) -> None:
    """reference: the advice about this very report, for the latency that the config allows."""
    assert assembled["advice"] == advise(assembled, None)
    search = finished.config.search.model_copy(update={"max_latency_ms": 1e-6})
    config = finished.config.model_copy(update={"search": search})
    parts = (finished.data, finished.ensemble, finished.search, finished.alone, finished.evaluation, EXPORT)
    assert assembly.assemble(config, *parts, PROMOTION, [], 1.0)["advice"]["choice"] == "none"
