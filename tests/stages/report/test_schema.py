"""The published schema: it is that of today's `Report`, and what is written keeps it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from distillery.stages.report.record import Report
from distillery.stages.report.schema import SCHEMA, schema_text


@pytest.fixture
def validator() -> Draft202012Validator:
    """Of the schema in the package, which is a schema itself."""
    schema = json.loads(files("distillery.stages.report").joinpath("report.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture
def written(report: Report, tmp_path: Path) -> dict[str, Any]:
    """report.json of the finished chain, as a program reads it that knows nothing of the library."""
    report.write(tmp_path)
    tree: dict[str, Any] = json.loads((tmp_path / Report.FILE).read_text())
    return tree


def test_the_file_is_up_to_date() -> None:
    """golden: the file beside the module; ``python -m distillery.stages.report.schema`` makes it again."""
    assert SCHEMA.read_text("utf-8") == schema_text()


def test_the_command_writes_the_file(tmp_path: Path) -> None:
    """contract: the documented command, run on a copy of the module, writes the schema beside it."""
    copy = tmp_path / "schema.py"
    copy.write_text(SCHEMA.with_name("schema.py").read_text("utf-8"), "utf-8")
    subprocess.run([sys.executable, str(copy)], check=True, cwd=tmp_path)
    assert (tmp_path / SCHEMA.name).read_text("utf-8") == schema_text()


def test_the_report_of_the_chain_keeps_the_schema(validator: Draft202012Validator, written: dict[str, Any]) -> None:
    """contract: jsonschema, an independent reader, finds nothing wrong in the file."""
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(written)] == []


@pytest.mark.parametrize("change", ["no version", "another version", "another key", "a role that is none", "a word"])
def test_another_file_does_not_keep_it(validator: Draft202012Validator, written: dict[str, Any], change: str) -> None:
    """contract: a report of an earlier or later version, or with a key or value of another kind, is refused."""
    if change == "no version":
        del written["schema_version"]
    elif change == "another version":
        written["schema_version"] += 1
    elif change == "another key":
        written["rows"][0]["colour"] = "red"
    elif change == "a role that is none":
        written["gains"]["plain"] = written["gains"].pop("plain_baseline")
    else:
        written["rows"][0]["nll"] = "low"
    assert not validator.is_valid(written)
