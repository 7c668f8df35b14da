"""`distillery report`: files of a run that another version of the program wrote, and what others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from distillery.flows.cli import main
from distillery.stages.report.schema import SCHEMA


def report_of(run: tuple[Path, Any]) -> dict[str, Any]:
    """report.json of a run."""
    tree: dict[str, Any] = json.loads((run[0] / "runs" / "tiny" / "report.json").read_text())
    return tree


def test_the_report_of_a_run_keeps_the_published_schema(tiny_run: tuple[Path, Any]) -> None:
    """contract: jsonschema finds nothing wrong in the file of a whole run under Prefect and MLflow."""
    validator = Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))
    assert [f"{e.json_path}: {e.message}" for e in validator.iter_errors(report_of(tiny_run))] == []


@pytest.mark.parametrize("rest", ["as today", "as in 0.1.0"])
def test_a_report_of_an_earlier_version_is_refused(
    rest: str, home: Path, tiny_run: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """contract of error messages: a file without a version is named in one line that says to make it anew; exit 2."""
    tree = report_of(tiny_run)
    del tree["schema_version"]
    if rest == "as in 0.1.0":
        tree["optimism"] = tree.pop("winners_curse")
        tree["baselines"] = {"plain": "plain baseline small", "tuned": "tuned baseline small"}
    file = home / "runs" / "tiny" / "report.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(tree))
    with pytest.raises(SystemExit) as stopped:
        main(["report", "tiny"])
    assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"distillery: {file}: expected schema_version 1, got None: make it anew\n"
