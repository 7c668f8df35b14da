"""The whole chain with a real Prefect server and a real sqlite MLflow, in process."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from distillery.config_file import load
from distillery.dataset import read_source
from distillery.report import without_timing
from flows.pipeline import pipeline
from flows.places import Places
from flows.registry import by_alias, find_version, open_model, rollback
from flows.tracking import connect

COMPARED = {"val_search/accuracy", "val_search/nll", "params", "macs", "latency_ms_p50", "throughput_per_s"}


@pytest.fixture(scope="module")
def finished(prefect_server: str, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(home, first report): one run of the tiny experiment."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLERY_HOME", str(folder))
        patch.setenv("DISTILLERY_WORKERS", "1")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder, pipeline(load(tiny))


def test_report_has_every_model_and_figure(finished: tuple[Path, dict[str, Any]]) -> None:
    """Contract of the result file."""
    home, report = finished
    assert json.loads((home / "runs" / "tiny" / "report.json").read_text())["rows"] == report["rows"]
    roles = [row["role"] for row in report["rows"]]
    assert [roles.count(role) for role in ("teacher", "ensemble", "baseline", "student")] == [3, 2, 2, 2]
    for row in report["rows"]:
        assert {"accuracy", "nll", "brier", "ece", "params", "macs", "size_mb"} <= set(row)
        assert row["latency_ms_p50"] > 0 and row["latency_ms_p95"] > 0 and row["throughput_per_s"] > 0
    assert set(report["gap_recovery"]) == {"accuracy", "nll"}
    assert set(report["gap_recovery"]["nll"]) >= {"value", "low", "high"}
    assert {"promoted", "version", "reasons"} == set(report["promotion"])
    assert len(report["search"]["trials"]) == 5
    assert sum(report["weights"]["members"].values()) == pytest.approx(1)


def test_runs_are_nested_and_share_metric_names(finished: tuple[Path, dict[str, Any]]) -> None:
    """Contract of the tracking layout: selecting any runs and pressing Compare gives a full table."""
    client = connect(Places.from_environment())
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id], max_results=100)
    by_role: dict[str, list[Any]] = {}
    for run in runs:
        assert run.info.status == "FINISHED"
        by_role.setdefault(run.data.params["role"], []).append(run)
    assert {role: len(found) for role, found in by_role.items()} == {
        "pipeline": 1,
        "teacher": 3,
        "ensemble": 2,
        "study": 1,
        "trial": 5,
        "student": 2,
        "baseline": 2,
        "release": 1,
    }
    (parent,), (study,) = by_role["pipeline"], by_role["study"]
    for role, found in by_role.items():
        above = {"trial": study, "pipeline": None}.get(role, parent)
        for run in found:
            assert run.data.tags.get("mlflow.parentRunId") == (above.info.run_id if above else None)
    for role in ("pipeline", "student", "baseline", "trial"):
        for run in by_role[role]:
            assert set(run.data.metrics) >= COMPARED, role
    for role in ("pipeline", "teacher", "ensemble", "student", "baseline"):
        assert all({"test/accuracy", "test/nll", "test/ece"} <= set(run.data.metrics) for run in by_role[role])
    artifacts = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert artifacts >= {"front.png", "reliability.png", "confusion.png", "training_curves.png", "report.json"}


def test_an_unchanged_run_computes_and_logs_nothing_again(finished: tuple[Path, dict[str, Any]], tiny: Path) -> None:
    """Resume: the second run finds every stage, adds only its parent run, and reports the same."""
    _, first = finished
    client = connect(Places.from_environment())
    experiment = client.get_experiment_by_name("tiny").experiment_id
    before = {run.info.run_id for run in client.search_runs([experiment], max_results=100)}
    second = pipeline(load(tiny))
    after = {run.info.run_id for run in client.search_runs([experiment], max_results=100)}
    assert second["rows"] == first["rows"] and second["search"] == first["search"]
    assert second["promotion"] == first["promotion"]
    assert set(second["cached"]) == {h for h in second["seconds"] if h != "total"}
    assert after - before == {second["mlflow_run"]["id"]}
    assert len(client.search_model_versions("name = 'tiny'")) == 1


def test_a_lost_stage_is_computed_again_and_nothing_else(finished: tuple[Path, dict[str, Any]], tiny: Path) -> None:
    """Resume: the store is the truth, part by part."""
    home, first = finished
    (one, *_) = sorted((home / ".distillery" / "students").glob("*[!k]"))
    shutil.rmtree(one)
    again = pipeline(load(tiny))
    assert "students" not in again["cached"] and {"teachers", "search", "logits"} <= set(again["cached"])
    assert without_timing(again) == without_timing(first)


def test_the_version_answers_for_raw_rows_as_the_evaluation_did(
    finished: tuple[Path, dict[str, Any]], tiny: Path
) -> None:
    """Reference: accuracy of the registered ONNX model on raw test rows equals the report's."""
    _, report = finished
    config = load(tiny)
    client = connect(Places.from_environment())
    rows = read_source(config.data)
    running = open_model(client, "tiny", str(report["promotion"]["version"]))
    row = next(r for r in report["rows"] if r["role"] == "student" and r["chosen"])
    splits = sorted((Places.from_environment().store / "data").glob("*/splits.npz"))
    with np.load(splits[0]) as arrays:
        ids = arrays["test"]
    names = running.run(["label"], rows.feed(ids))[0]
    assert (names == rows.labels[ids]).mean() == pytest.approx(row["accuracy"], abs=1e-9)


def _promote_both(client: MlflowClient) -> None:
    from flows.registry import promote

    for version in (1, 2):
        promote(client, "rolling", version, ["by hand: test"])


def test_rollback_restores_the_champion_before(home: Path) -> None:
    """Contract of the aliases: champion and previous trade places; without a previous one it is refused."""
    from distillery.errors import InputError

    client = connect(Places.from_environment())
    client.create_registered_model("rolling")
    for _ in range(2):
        client.create_model_version("rolling", "file:///nowhere")
    with pytest.raises(InputError, match="champion"):
        rollback(client, "rolling")
    _promote_both(client)
    assert rollback(client, "rolling") == (2, 1)
    champion = by_alias(client, "rolling", "champion")
    assert champion is not None and int(champion.version) == 1
    assert find_version(client, "rolling", "no such fingerprint") is None
