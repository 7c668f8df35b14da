"""``report.schema.json``: the JSON Schema of ``report.json``, for programs that read reports.

The file lies beside this module and in the installed package. After a change of `Report`, write it anew with::

    python -m distillery.stages.report.schema
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic.json_schema import GenerateJsonSchema

from distillery.stages.report.record import Report

SCHEMA = Path(__file__).with_name("report.schema.json")


def schema_text() -> str:
    """The schema of a report as it is written, with a line break at the end."""
    # What is written has every key, and so a file without a `schema_version` is none of this kind.
    schema = Report.model_json_schema(mode="serialization")
    return json.dumps({"$schema": GenerateJsonSchema.schema_dialect, **schema}, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
