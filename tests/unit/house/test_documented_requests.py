"""The documented request for features from Feast fits the model of the example."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def assigned(path: str, name: str) -> list[str]:
    """Return the value of a constant from the source text, because importing the module would import Airflow."""
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(item, ast.Name) and item.id == name for item in node.targets
        ):
            return ast.literal_eval(node.value)
    raise AssertionError(name)


def test_the_entity_has_the_join_keys_and_the_features_that_do_not_come_from_feast():
    (body,) = re.findall(r"-d '(\{\"entities\": .*\})'", (ROOT / "docs" / "serving.md").read_text())
    (entity,) = json.loads(body)["entities"]
    views = (ROOT / "dags" / "flights_features" / "definitions.py").read_text()
    keys = re.findall(r'join_keys=\["(\w+)"\]', views)
    assert entity.keys() == {*assigned("dags/flights.py", "SCHEDULE_COLUMNS"), *keys}
