"""A result from the cache is found without the libraries of its step."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest

from airflow_mlops import stages
from airflow_mlops.stages.cache import types
from tests.unit.house.test_parse_purity import HEAVY

STAGES = sorted(file.parent.name for file in Path(stages.__path__[0]).glob("*/cache.py"))
LIGHT = {
    "ingest",
    "materialize_features",
    "validate",
    "training_set",
    "search",
    "train",
    "evaluate",
    "refit",
    "forecast_rows",
}
# The artifact store is opened with it.
OF_THE_STORE = {"fsspec"}
PROBE = """
import sys
from importlib import import_module
from airflow_mlops.stages import __main__
for name in sys.argv[1:]:
    import_module(f"airflow_mlops.stages.{name}.cache")
print(*(name for name in sys.modules if "." not in name))
"""


def test_a_look_up_imports_no_library_of_a_step():
    assert set(STAGES) > LIGHT
    done = subprocess.run([sys.executable, "-c", PROBE, *sorted(LIGHT)], capture_output=True, text=True, check=True)
    assert not (HEAVY - OF_THE_STORE).intersection(done.stdout.split())


@pytest.mark.parametrize("stage", STAGES)
def test_the_classes_of_a_stage_have_the_name_of_the_stage(stage):
    hints = get_type_hints(import_module(f"airflow_mlops.stages.{stage}.step").run)
    assert types(stage) == (hints["spec"], hints["return"])
