"""The report: everything in one tree, and nothing that the stages did not say."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from distillery import report
from distillery.config_file import parse
from distillery.store import Handle

EXPORT = Handle(
    "export", "large-student", "/no/where", "0", {"parity": 1e-7, "onnx_mb": 0.5, "served_latency_ms_p50": 0.1}, 3.0
)
PROMOTION = {"promoted": True, "version": 3, "reasons": ["there is no champion yet"]}


@pytest.fixture
def assembled(finished: SimpleNamespace) -> dict[str, Any]:
    """The report of the tiny chain, of which two members were found finished."""
    first, *others = finished.members
    handles = [finished.data, first, *(replace(m, cached=True) for m in others), EXPORT, replace(EXPORT, cached=True)]
    handles.append(replace(finished.ensemble, cached=True))
    parts = (finished.data, finished.ensemble, finished.search, finished.evaluation, EXPORT)
    return report.assemble(finished.config, *parts, PROMOTION, handles, 12.5)


def test_the_report_is_plain_json(assembled: dict[str, Any]) -> None:
    """property: to JSON and back is the same tree, and the config in it is the experiment."""
    assert json.loads(json.dumps(assembled)) == assembled
    assert parse(assembled["config"]).name == assembled["name"] == "tiny"


def test_the_report_is_what_the_stages_say(finished: SimpleNamespace, assembled: dict[str, Any]) -> None:
    """reference: rows, recovery, trials and weights from the stages' own files."""
    judged, found = finished.evaluation.json("evaluation.json"), finished.search.json("search.json")
    for key in ("gap_recovery", "compression", "classes"):
        assert assembled[key] == judged[key]
    for key in ("trials", "front", "best", "chosen", "study"):
        assert assembled["search"][key] == found[key]
    pooled = finished.ensemble.json("ensemble.json")
    used = pooled["table"][pooled["chosen"]]
    assert assembled["weights"]["members"] == dict(zip(pooled["members"], used["weights"], strict=True))
    assert assembled["weights"]["reason"] == pooled["reason"]
    assert assembled["promotion"] == PROMOTION and assembled["export"] == EXPORT.metrics
    assert assembled["data"]["test_rows_digest"] == judged["test_rows_digest"]
    assert assembled["data"]["rows_test"] == 300 and assembled["data"]["skipped_rows"] == []


def test_the_chosen_student_has_its_served_figures(finished: SimpleNamespace, assembled: dict[str, Any]) -> None:
    """golden: they stand in its row and in no other; every other row is the evaluation's."""
    for row, judged in zip(assembled["rows"], finished.evaluation.json("evaluation.json")["rows"], strict=True):
        is_served = row["role"] == "student" and row["chosen"]
        more = {"onnx_mb": 0.5, "served_latency_ms_p50": 0.1} if is_served else {}
        assert row == {**judged, **more}


def test_time_is_counted_once(finished: SimpleNamespace, assembled: dict[str, Any]) -> None:
    """golden: seconds are summed by stage over different results; a stage is cached if all of its parts were."""
    seconds = assembled["seconds"]
    assert seconds["teachers"] == pytest.approx(sum(m.seconds for m in finished.members))
    assert (seconds["export"], seconds["total"]) == (3.0, 12.5)
    assert assembled["cached"] == ["ensemble"]


def test_equal_runs_have_equal_reports_without_timing(assembled: dict[str, Any]) -> None:
    """property: what the clock decides is left out and nothing else; the report itself stays whole."""
    other = copy.deepcopy(assembled)
    other["seconds"]["total"], other["cached"], other["mlflow_run"] = 99.0, [], "another"
    for row in other["rows"]:
        row["latency_ms_p50"], row["throughput_per_s"] = 1.0, 2.0
    other["export"] = {**other["export"], "served_latency_ms_p50": 7.0}
    other["search"]["trials"][0]["seconds"] = 5.0
    assert report.without_timing(other) == report.without_timing(assembled) != assembled
    assert "seconds" in assembled and "latency_ms_p50" in assembled["rows"][0]
    other["rows"][0]["nll"] += 0.1
    assert report.without_timing(other) != report.without_timing(assembled)
