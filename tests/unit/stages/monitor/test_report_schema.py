"""The published JSON schema describes the reports."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import jsonschema
import pytest

from airflow_mlops.policy.findings import Findings, Report
from airflow_mlops.stages.monitor.report_schema import report_schema
from tests.unit.stages.monitor.test_report import report

ROOT = Path(__file__).parents[4]
PUBLISHED = ROOT / "docs" / "report.schema.json"


def test_the_published_schema_is_the_present_one():
    assert json.loads(PUBLISHED.read_text()) == report_schema(), "run `make schema`, and raise Report.format if need be"


def test_a_report_fits_the_schema_and_another_text_does_not():
    schema, written = report_schema(), report().model_dump(mode="json")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(written, schema)
    jsonschema.validate({**written, "added_later": 1}, schema)
    for wrong in ({"verdict": {"decision": "perhaps", "reason": ""}}, {"rows": "many"}, {"window": 2013}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**written, **wrong}, schema)


def test_the_schema_describes_the_fields():
    schema = report_schema()
    for part in (schema, *schema["$defs"].values()):
        assert ":param" not in part.get("description", "")
    assert schema["properties"]["coverage"]["description"].startswith("share of the predictions")
    assert schema["$defs"]["Drift"]["properties"]["psi"]["description"].startswith("population stability index")
    assert set(schema["properties"]) == set(Report.model_fields)


def test_the_description_of_a_field_ends_before_the_next_docstring():
    schema = report_schema()
    firsts = [inspect.getdoc(part).partition("\n")[0].rstrip(".") for part in (Report, Findings)]
    for part in (schema, *schema["$defs"].values()):
        for name, found in part.get("properties", {}).items():
            assert not [text for text in firsts if text in found.get("description", "")], name
    assert schema["properties"]["provenance"]["description"].endswith("did not store the task")


def test_the_wheel_contains_the_schema():
    """tests/integration/test_your_own_data.py installs the wheel; building it needs hatchling."""
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    (source,) = [
        source for source, target in settings["force-include"].items() if target == "airflow_mlops/report.schema.json"
    ]
    assert json.loads((ROOT / source).read_text())["title"] == "Report"
