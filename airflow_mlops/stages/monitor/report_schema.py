"""The JSON schema of reports, for programs that read reports without this package.

``make schema`` writes the output of ``python -m airflow_mlops.stages.monitor.report_schema`` to
``docs/report.schema.json``.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from typing import Any

from airflow_mlops.policy.findings import Findings, Report

# The lines of a description after the first are indented.
_PARAM = re.compile(r"^:param (\w+):[ \n](.*(?:\n[ \t]+\S.*)*)", re.MULTILINE)
_ROLE = re.compile(r":\w+:`~?([^`]*)`")


def report_schema() -> dict[str, Any]:
    """Build the schema (JSON Schema 2020-12) of ``reports/MODEL/WINDOW.json``.

    Unknown fields are valid, because a later version of this package may add fields. A field is removed only when
    ``format`` increases.
    """
    schema = Report.model_json_schema(mode="serialization")
    schema["description"] = "\n".join(inspect.getdoc(part) or "" for part in (Report, Findings))
    for part in (schema, *schema["$defs"].values()):
        _describe(part)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _describe(part: dict[str, Any]) -> None:
    """Move the description of each field from the description of the class to the field."""
    part.pop("additionalProperties", None)
    text = part.get("description", "")
    about = dict(_PARAM.findall(text))
    if text:
        part["description"] = _line(text.partition(":param ")[0])
    for name, found in part.get("properties", {}).items():
        found.pop("title", None)
        if name in about:
            found["description"] = _line(about[name])


def _line(text: str) -> str:
    return _ROLE.sub(r"\1", " ".join(text.split())).replace("``", "`")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n")
