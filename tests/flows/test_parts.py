"""The parts `search` and `release` of the chain, with a real Prefect server and a real sqlite MLflow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distillery.config.config_file import load
from distillery.errors import InputError
from distillery.flows.environment import Places
from distillery.flows.flow import pipeline
from distillery.flows.servers.doctor import examine
from distillery.flows.tracking.registry import by_alias
from distillery.flows.tracking.runs import connect
from distillery.stages.evaluation.record import EvaluationResult

OPEN = ["gates=[{figure: accuracy, at_least: 0.1}]"]


@pytest.fixture(scope="module")
def searched(
    prefect_server: str, tiny: Path, new_home: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """(home, what the part `search` returned); finished stages are shared beyond the home, too."""
    folder = new_home(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLERY_HOME", str(folder))
        patch.setenv("DISTILLERY_WORKERS", "1")
        patch.setenv("DISTILLERY_REMOTE", f"file://{folder}/remote")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder, pipeline(load(tiny, OPEN), "search")


def _stages(home: Path) -> set[str]:
    """Stages of which something is finished."""
    return {manifest.parts[-3] for manifest in (home / ".distillery").glob("*/*/manifest.json")}


def test_a_search_ends_with_the_evaluation(searched: tuple[Path, EvaluationResult]) -> None:
    """Contract: every model is judged, nothing is exported, registered or reported."""
    home, evaluation = searched
    assert {"teacher", "ensemble", "student", "tuned_baseline"} <= {row.role for row in evaluation.rows}
    assert "evaluation" in _stages(home) and "export" not in _stages(home)
    assert connect(Places.from_environment()).search_model_versions() == []
    assert not list((home / "runs").rglob("report.*"))


def test_a_release_of_what_is_not_finished_says_what_is_missing(
    searched: tuple[Path, EvaluationResult], tiny: Path
) -> None:
    """Contract: it names the first stage that is not there, computes nothing, and says where its run is recorded."""
    home, _ = searched
    before = sorted((home / ".distillery").glob("*/*"))
    with pytest.raises(InputError, match=rf"search 'tiny-student'.*{home / '.distillery'}") as stopped:
        pipeline(load(tiny, [*OPEN, "search.trials=6"]), "release")
    assert sorted((home / ".distillery").glob("*/*")) == before
    runs = connect(Places.from_environment()).search_runs(["1"], "attributes.status = 'FAILED'")
    parent = next(run for run in runs if run.data.tags["role"] == "pipeline")
    assert f"/runs/{parent.info.run_id}" in stopped.value.__notes__[0]


def test_a_release_decides_about_what_a_search_has_finished(
    searched: tuple[Path, EvaluationResult], tiny: Path
) -> None:
    """Resume: only export and decision are new, and the report has the figures of the search."""
    home, evaluation = searched
    report = pipeline(load(tiny, OPEN), "release")
    assert set(report.seconds) - set(report.cached) == {"export", "served", "total"}
    assert [row.nll for row in report.rows] == [row.nll for row in evaluation.rows]
    assert (home / "runs" / "tiny" / "report.json").is_file()
    champion = by_alias(connect(Places.from_environment()), "tiny", "champion")
    assert champion is not None and report.promotion.promoted


def test_a_machine_without_the_folder_releases_it_as_well(
    searched: tuple[Path, EvaluationResult],
    tiny: Path,
    new_home: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Resume: every stage of the search is fetched from where the other machine has sent it."""
    _, evaluation = searched
    monkeypatch.setenv("DISTILLERY_HOME", str(new_home(tmp_path)))
    report = pipeline(load(tiny, OPEN), "release")
    assert {"data", "teachers", "search", "students", "evaluation"} <= set(report.cached)
    assert [row.nll for row in report.rows] == [row.nll for row in evaluation.rows]
    # What models cost is in the evaluation already.
    assert report.promotion.promoted and _stages(tmp_path) == _stages(searched[0]) - {"costs"}


def test_a_remote_that_cannot_be_used_stops_the_run_at_once(
    searched: Any,
    tiny: Path,
    new_home: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Contract: the line names the setting, nothing is computed; the doctor says the same, and that a good one is."""
    shown = Console(record=True, width=300)
    examine(shown)
    assert f"finished stages are shared at file://{searched[0]}/remote" in shown.export_text()
    monkeypatch.setenv("DISTILLERY_HOME", str(new_home(tmp_path)))
    monkeypatch.setenv("DISTILLERY_REMOTE", "file:///dev/null/stages")
    with pytest.raises(InputError, match=r"^DISTILLERY_REMOTE: expected .*, got 'file:///dev/null/stages'"):
        pipeline(load(tiny, OPEN))
    assert _stages(tmp_path) == set()
    assert not examine(shown)
    assert "remote: DISTILLERY_REMOTE: expected" in shown.export_text()
