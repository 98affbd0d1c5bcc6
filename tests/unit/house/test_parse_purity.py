"""Parsing a DAG imports no library that only a running step needs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.forks import Forks

ROOT = Path(__file__).parents[3]
OPERATORS = sorted(
    f"airflow_mlops.operators.{file.stem}"
    for file in (ROOT / "airflow_mlops" / "operators").glob("*.py")
    if file.stem not in ("__init__", "base")
)
SENSORS = ["airflow_mlops.sensors.feature_freshness", "airflow_mlops.sensors.model_health"]

HEAVY = {
    "datasketches", "feast", "fsspec", "great_expectations", "interpret", "kubernetes", "matplotlib", "mlflow", "numpy",
    "onnx", "onnxruntime", "openlineage", "optuna", "pandas", "prometheus_client", "pyarrow", "pyspark", "ray", "requests", "scipy", "skl2onnx",
    "sklearn", "skops", "sqlalchemy", "torch",
}  # fmt: skip
# Airflow itself imports these before it parses a DAG.
AIRFLOWS_OWN = {"fsspec", "sqlalchemy"}

# What Airflow's DAG processor has imported before it parses a DAG.
PROCESSOR = """
import airflow.dag_processing.processor
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import DAG, Asset, BaseOperator
"""
# Prints the modules that the statement in ``sys.argv[1]`` imports in addition.
PROBE = """
import json, sys
def loaded():
    return {name for name, module in sys.modules.items() if module is not None}
before = loaded()
exec(sys.argv[1])
print(json.dumps({"before": sorted(before), "new": sorted(loaded() - before)}))
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory) -> Iterator[Callable[[str], tuple[set[str], set[str]]]]:
    """The modules imported before and by a statement, in an interpreter that has imported what the DAG processor has."""
    folder = tmp_path_factory.mktemp("airflow")
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    env |= {"AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    with Forks(PROCESSOR, env, folder) as forks:

        def probe(statement: str) -> tuple[set[str], set[str]]:
            done = forks.run(PROBE, statement)
            assert done.returncode == 0, done.stdout + done.stderr
            found = json.loads(done.stdout.splitlines()[-1])
            return set(found["before"]), set(found["new"])

        yield probe


def parse(path: Path) -> str:
    """The statement that parses a DAG file or a folder as the DAG processor does."""
    folder = path if path.is_dir() else path.parent
    return f"""
from pathlib import Path
bag = BundleDagBag({str(path)!r}, bundle_path=Path({str(folder)!r}), bundle_name="b")
assert bag.dags and not bag.import_errors, bag.import_errors
"""


def test_the_probe_finds_imported_modules(probe):
    before, new = probe("import pandas")
    assert {"pandas", "numpy"} <= new & HEAVY
    # The tests below cannot find a module that Airflow itself imports, so a new one must be noticed here.
    assert before & HEAVY == AIRFLOWS_OWN


def test_importing_all_that_dag_files_import_loads_nothing_heavy(probe):
    others = ["compute", "links", "trainers", "triggers.registry", "triggers.report"]
    modules = [*OPERATORS, *SENSORS, *(f"airflow_mlops.{name}" for name in others)]
    _, new = probe("\n".join(f"import {module}" for module in modules))
    assert set(OPERATORS) <= new
    assert new & HEAVY == set()


@pytest.mark.parametrize("package", ["airflow_mlops.operators", "airflow_mlops.sensors"])
def test_importing_the_package_imports_no_operator_or_sensor(package, probe):
    _, new = probe(f"import {package}")
    assert new == {package}


def test_a_dag_of_all_operators_loads_nothing_heavy(probe):
    _, new = probe(parse(ROOT / "benchmarks" / "dags" / "parse" / "every_operator.py"))
    assert set(OPERATORS) <= new
    assert new & HEAVY == set()
    # Building the pydantic models of specs was most of the time of parsing.
    assert not [name for name in new if name.startswith("airflow_mlops.stages.")]


SENSING = """
from airflow.sdk import DAG, Asset, AssetWatcher
from airflow_mlops.sensors import FeatureFreshnessSensor, ModelHealthSensor
from airflow_mlops.triggers.registry import RegistryTrigger
from airflow_mlops.triggers.report import MonitorReportTrigger

champion = Asset("mlops://churn/champion", watchers=[AssetWatcher(name="registry", trigger=RegistryTrigger("churn"))])
watched = Asset("reports", watchers=[AssetWatcher(name="reports", trigger=MonitorReportTrigger("churn"))])
with DAG("sensing", schedule=[watched, champion]):
    ModelHealthSensor(task_id="health", model="churn", deferrable=True)
    FeatureFreshnessSensor(task_id="fresh", repo="features", max_age="1D", deferrable=True)
"""


def test_a_dag_of_sensors_and_a_watcher_loads_nothing_heavy(probe, tmp_path):
    (tmp_path / "sensing.py").write_text(SENSING)
    _, new = probe(parse(tmp_path / "sensing.py"))
    assert {*SENSORS, "airflow_mlops.triggers.registry", "airflow_mlops.triggers.report"} <= new
    assert new & HEAVY == set()


def test_the_example_dags_load_nothing_heavy(probe):
    _, new = probe(parse(ROOT / "dags"))
    assert "airflow_mlops.operators.base" in new
    assert new & HEAVY == set()


def test_the_plugin_that_every_task_imports_is_light(probe):
    _, new = probe("import airflow_mlops.plugin, airflow_mlops.hooks.mlflow")
    assert new & {*HEAVY, "fastapi"} == set()
