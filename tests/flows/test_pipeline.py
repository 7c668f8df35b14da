"""The whole chain with a real Prefect server and a real sqlite MLflow, in process."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from reports import without_timing

from distillery.config.config_file import load
from distillery.config.gates import SHIP_GATES
from distillery.flows.environment import Places
from distillery.flows.flow import pipeline
from distillery.flows.tracking.history import read
from distillery.flows.tracking.registry import by_alias, open_model
from distillery.flows.tracking.runs import connect
from distillery.stages.data.preparation import read_source
from distillery.stages.promotion.record import DecisionCount
from distillery.stages.report.record import Report
from distillery.stages.roles import Role

COMPARED = {"val_search/accuracy", "val_search/nll", "params", "macs", "latency_ms_p50", "throughput_per_s"}


@pytest.fixture(scope="module")
def finished(tiny_run: tuple[Path, Report]) -> Any:
    """(home, first report): one run of the tiny experiment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLERY_HOME", str(tiny_run[0]))
        patch.setenv("DISTILLERY_WORKERS", "1")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield tiny_run


def test_report_has_every_model_and_figure(finished: tuple[Path, Report]) -> None:
    """Contract of the result file."""
    home, report = finished
    assert Report.read(home / "runs" / "tiny") == report
    roles = [row.role for row in report.rows]
    expected = {"teacher": 3, "ensemble": 2, "plain_baseline": 2, "tuned_baseline": 1, "student": 2}
    assert {role: roles.count(role) for role in roles} == expected
    for row in report.rows:
        assert row.latency_ms_p50 and row.latency_ms_p95 and row.throughput_per_s
    assert set(report.gap_recovery) == {Role.PLAIN, Role.TUNED} and len(report.seeds) == 2
    assert report.promotion.decisions == DecisionCount(same_rows=1, all=1)
    networks, trees = "onnxruntime", "scikit-learn"
    both = f"{networks} and {trees}"
    runtimes = [(row.role, row.runtime) for row in report.rows]
    assert {runtime for role, runtime in runtimes if role == "teacher"} == {networks, trees}
    assert {runtime for role, runtime in runtimes if role == "ensemble"} <= {networks, both}
    assert {runtime for role, runtime in runtimes if role not in ("teacher", "ensemble")} == {networks}
    assert len(report.promotion.gates) == len(SHIP_GATES)
    assert len(report.robustness) == 4
    trials = report.search.trials
    assert len(trials) == 5
    mine = [t for t in trials if t.capacity == report.search.chosen]
    assert len(report.baseline_search.trials) == len(mine)
    assert {t.capacity for t in report.baseline_search.trials} == {report.search.chosen}
    assert sum(report.weights.members.values()) == pytest.approx(1)


def _by_role(client: MlflowClient) -> dict[str, list[Any]]:
    """All runs of the experiment by their role."""
    found: dict[str, list[Any]] = {}
    for run in client.search_runs([client.get_experiment_by_name("tiny").experiment_id], max_results=200):
        assert run.info.status == "FINISHED"
        found.setdefault(run.data.params["role"], []).append(run)
    return found


def test_runs_are_nested_and_share_metric_names(finished: tuple[Path, Report]) -> None:
    """Contract of the tracking layout: selecting any runs and pressing Compare gives a full table."""
    _, report = finished
    client = connect(Places.from_environment())
    by_role = _by_role(client)
    assert {role: len(found) for role, found in by_role.items()} == {
        "pipeline": 1,
        "teacher": 3,
        "ensemble": 2,
        "study": 2,
        "trial": 5 + len(report.baseline_search.trials),
        "student": 3,
        "plain baseline": 3,
        "tuned baseline": 4,  # two seeds, as long as a student and as long as a trial
        "release": 1,
    }
    (parent,), studies = by_role["pipeline"], {run.info.run_name: run for run in by_role["study"]}
    for role, found in by_role.items():
        if role not in ("pipeline", "trial"):
            assert {run.data.tags["mlflow.parentRunId"] for run in found} == {parent.info.run_id}
    above = [run.data.tags["mlflow.parentRunId"] for run in by_role["trial"]]
    for name, key in (("search", "search"), ("baseline search", "baseline_search")):
        assert above.count(studies[name].info.run_id) == len(getattr(report, key).trials)
    for role in ("pipeline", "trial"):
        for run in by_role[role]:
            assert set(run.data.metrics) >= COMPARED, role
    for role in ("pipeline", "teacher", "ensemble"):
        assert all({"test/accuracy", "test/nll", "test/ece"} <= set(run.data.metrics) for run in by_role[role])
    artifacts = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert artifacts >= {"front.png", "reliability.png", "confusion.png", "training_curves.png", "report.json"}
    written = (finished[0] / "runs" / "tiny" / "report.html").read_text()
    assert Path(client.download_artifacts(parent.info.run_id, "report.html")).read_text() == written
    assert f"<title>tiny: {'' if report.promotion.promoted else 'not '}promoted" in written
    with get_client(sync_client=True) as prefect:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["tiny-page"]))
        links = [str(artifact.data) for artifact in prefect.read_artifacts(artifact_filter=wanted)]
    assert any(f"/runs/{parent.info.run_id}/artifacts/report.html?" in link for link in links)


@pytest.mark.parametrize("role", [Role.STUDENT, Role.PLAIN])
def test_each_seed_is_a_run_and_the_judged_one_has_the_test_figures(finished: tuple[Path, Report], role: Role) -> None:
    """Reference: the rows of the report, each on the run of the network that was best on val_search, and no other."""
    _, report = finished
    chosen = report.search.chosen
    runs = _by_role(connect(Places.from_environment()))[role.words]
    mine = [run for run in runs if run.data.params["model"] == chosen]
    assert len(mine) == len({run.data.params["seed"] for run in mine}) == len(report.seeds) == 2
    assert all({"val_search/nll", "train_seconds"} <= set(run.data.metrics) for run in runs)
    for run in runs:
        row = next(r for r in report.rows if (r.role, r.name) == (role, run.data.params["model"]))
        rivals = [other for other in runs if other.data.params["model"] == run.data.params["model"]]
        if run is min(rivals, key=lambda other: other.data.metrics["val_search/nll"]):
            assert set(run.data.metrics) >= COMPARED | {"test/ece"}
            assert run.data.metrics["test/nll"] == pytest.approx(row.nll)
            assert run.data.metrics["val_search/nll"] == pytest.approx(row.val_search_nll, rel=1e-5)
        else:
            assert "test/nll" not in run.data.metrics


def test_an_unchanged_run_computes_and_logs_nothing_again(finished: tuple[Path, Report], tiny: Path) -> None:
    """Resume: the second run finds every stage, adds only its parent run, and reports the same."""
    _, first = finished
    client = connect(Places.from_environment())
    experiment = client.get_experiment_by_name("tiny").experiment_id
    before = {run.info.run_id for run in client.search_runs([experiment], max_results=200)}
    second = pipeline(load(tiny))
    after = {run.info.run_id for run in client.search_runs([experiment], max_results=200)}
    assert second.rows == first.rows and second.search == first.search
    assert second.promotion == first.promotion
    assert set(second.cached) == {h for h in second.seconds if h != "total"}
    assert after - before == {second.mlflow_run.id}
    assert len(client.search_model_versions("name = 'tiny'")) == 1


def test_a_lost_stage_is_computed_again_and_nothing_else(finished: tuple[Path, Report], tiny: Path) -> None:
    """Resume: the store is the truth, part by part."""
    home, first = finished
    (one, *_) = sorted(p for p in (home / ".distillery" / "students").iterdir() if p.is_dir())
    shutil.rmtree(one)
    again = pipeline(load(tiny))
    assert "students" not in again.cached and {"teachers", "search", "logits"} <= set(again.cached)
    assert without_timing(again) == without_timing(first)


def test_the_version_answers_for_raw_rows_as_the_evaluation_did(finished: tuple[Path, Report], tiny: Path) -> None:
    """Reference: accuracy of the registered ONNX model on raw test rows equals the report's."""
    _, report = finished
    config = load(tiny)
    client = connect(Places.from_environment())
    rows = read_source(config.data)
    running = open_model(client, "tiny", str(report.promotion.version))
    row = report.candidate
    splits = sorted((Places.from_environment().store / "data").glob("*/splits.npz"))
    with np.load(splits[0]) as arrays:
        ids = arrays["test"]
    names = running.run(["label"], rows.feed(ids))[0]
    assert (names == rows.labels[ids]).mean() == pytest.approx(row.accuracy, abs=1e-9)


def _decision(client: MlflowClient) -> Any:
    """What is stored on the only version."""
    (version,) = client.search_model_versions("name = 'tiny'")
    return json.loads(client.get_model_version("tiny", version.version).tags["decision"])


def test_changed_gates_lead_to_a_new_decision_without_training(finished: tuple[Path, Report], tiny: Path) -> None:
    """Contract of the registry: the verdict on the version is that of the gates in force, by which it says why."""
    home, first = finished
    client = connect(Places.from_environment())
    before, roles = _decision(client), _by_role(client)
    assert (before["reasons"], before["gates"]) == (first.promotion.reasons, list(map(asdict, first.promotion.gates)))
    assert (before["action"] == "promoted") is first.promotion.promoted
    closed = pipeline(load(tiny, ["gates=[{figure: accuracy, at_least: 2}]"]))
    assert set(closed.cached) == {h for h in closed.seconds if h != "total"}
    accuracy = closed.candidate.accuracy
    blocked = f"FAILED accuracy: expected at least 2, got {accuracy:.4g}"
    assert closed.promotion.reasons == [blocked, "there is no champion yet"]
    assert not closed.promotion.promoted and by_alias(client, "tiny", "champion") is None
    stored = _decision(client)
    assert stored["reasons"][0] == blocked and stored["gates"][0]["passed"] is False
    assert stored["action"] == "rejected" and stored["rules"] != before["rules"]
    opened = pipeline(load(tiny, ["gates=[{figure: accuracy, at_least: 0.1}]"]))
    champion = by_alias(client, "tiny", "champion")
    assert opened.promotion.promoted and champion is not None and int(champion.version) == 1
    stored = _decision(client)
    assert stored["action"] == "promoted" and stored["gates"][0]["limit"] == 0.1
    entries = read(client.get_registered_model("tiny").tags)
    assert [(e.number, e.action) for e in entries] == [(1, before["action"]), (2, "rejected"), (3, "promoted")]
    (data,) = {Path(p.parent).name for p in (home / ".distillery" / "data").glob("*/manifest.json")}
    assert {e.data for e in entries} == {data} and len({UUID(e.flow_run) for e in entries}) == 3
    after = _by_role(client)
    assert {role: len(runs) for role, runs in after.items()} == {
        **{role: len(runs) for role, runs in roles.items()},
        "pipeline": len(roles["pipeline"]) + 2,
    }
