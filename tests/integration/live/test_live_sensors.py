"""A real triggerer waits for reports and features, and starts DAGs for reports and for moves of a champion, also after it was killed."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

import pytest

from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.ledger import Ledger
from tests.integration.registry.test_outside_moves import promote
from tests.integration.stages.test_feature_freshness import april, materialize, write_places
from tests.integration.stages.test_promote import versions  # noqa: F401 - a fixture
from tests.support.live import LiveAirflow
from tests.support.reports import publish

pytestmark = pytest.mark.slow

WAITING = """
from airflow.sdk import DAG
from airflow_mlops.sensors import FeatureFreshnessSensor, ModelHealthSensor

options = dict(poke_interval=1, deferrable=True)
with DAG("waiting", schedule=None):
    ModelHealthSensor(task_id="well", model="patients", window="2013-04", **options)
    ModelHealthSensor(task_id="ill", model="patients", window="2013-05", **options)
    ModelHealthSensor(task_id="skipped", model="patients", window="2013-05", soft_fail=True, **options)
    ModelHealthSensor(task_id="late", model="patients", window="2013-06", timeout=2, **options)
    FeatureFreshnessSensor(task_id="fresh", repo={repo!r}, window="2013-04", **options)
"""

WATCHING = """
from airflow.sdk import DAG, Asset, AssetWatcher, task
from airflow_mlops.triggers.report import MonitorReportTrigger

trigger = MonitorReportTrigger("delays", decisions=["retrain"], poke_interval=1)
asset = Asset("delays_reports", watchers=[AssetWatcher(name="reports", trigger=trigger)])
with DAG("watching", schedule=[asset], catchup=False):
    @task
    def told(triggering_asset_events=None):
        return [event.extra["payload"]["window"] for event in triggering_asset_events[asset]]
    told()
"""

MOVED = """
from airflow.sdk import DAG, Asset, AssetWatcher, task
from airflow_mlops.triggers.registry import RegistryTrigger

asset = Asset("moved", watchers=[AssetWatcher(name="registry", trigger=RegistryTrigger({model!r}, poke_interval=1))])
with DAG("moved", schedule=[asset], catchup=False):
    @task
    def told(triggering_asset_events=None):
        return [event.extra["payload"]["version"] for event in triggering_asset_events[asset]]
    told()
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live_features") / "features"
    write_places(folder)
    return folder


@pytest.fixture(scope="module")
def store(airflow: LiveAirflow) -> ArtifactStore:
    return ArtifactStore(f"file://{airflow.home}/artifacts")


@pytest.fixture(scope="module", autouse=True)
def dags(airflow: LiveAirflow, repo: Path, store: ArtifactStore) -> None:
    publish(store, "2013-01", "retrain")
    (airflow.dags / "waiting.py").write_text(WAITING.format(repo=str(repo)))
    (airflow.dags / "watching.py").write_text(WATCHING)


def states(airflow: LiveAirflow, run_id: str) -> dict[str, str]:
    return {item["task_id"]: item["state"] for item in airflow.task_instances("waiting", run_id)}


def test_deferred_sensors_end_when_what_they_wait_for_is_there(airflow: LiveAirflow, store: ArtifactStore, repo: Path):
    run_id = airflow.trigger("waiting")
    airflow.until_deferred("waiting", run_id, "well", "ill", "skipped", "fresh")
    publish(store, "2013-04", model="patients")
    publish(store, "2013-05", "retrain", model="patients")
    materialize(repo, *april(1, 30))
    airflow.wait("waiting", run_id)
    assert states(airflow, run_id) == {
        "well": "success", "ill": "failed", "skipped": "skipped", "late": "failed", "fresh": "success"
    }  # fmt: skip
    assert airflow.xcom("waiting", run_id, "well")["report_url"] == store.url_of("reports/patients/2013-04.html")
    assert sorted(airflow.xcom("waiting", run_id, "fresh")["materialized_until"]) == ["first", "second"]
    path = f"/api/v2/dags/waiting/dagRuns/{quote(run_id, safe='')}/taskInstances/ill/logs/1?full_content=true"
    log = str(airflow.get(path))
    assert "ModelUnhealthyError" in log
    assert "patients in 2013-05 is retrain" in log


def remembered(airflow: LiveAirflow, key: str = "") -> str:
    """What Airflow has stored for the asset watchers, by the start of its key."""
    with sqlite3.connect(airflow.home / "airflow.db") as database:
        return str(database.execute("SELECT value FROM asset_state_store WHERE key LIKE ?", [f"{key}%"]).fetchall())


def told(airflow: LiveAirflow, dag_id: str) -> list[str]:
    """The windows or versions for which the DAG was started, once its runs have ended."""
    runs = [run["dag_run_id"] for run in airflow.runs(dag_id)]
    for run_id in runs:
        airflow.wait_for_success(dag_id, run_id)
    return [event for run_id in runs for event in airflow.xcom(dag_id, run_id, "told")]


def test_watchers_start_dags_once_for_each_event_also_when_the_triggerer_dies(
    airflow: LiveAirflow,
    store: ArtifactStore,
    client,
    versions,  # noqa: F811
):
    ledger = Ledger(store, versions[0].model)
    promote(client, ledger, *versions[:2])
    (airflow.dags / "moved.py").write_text(MOVED.format(model=ledger.model))
    airflow.parsed("watching")
    airflow.until(lambda: "2013-01" in remembered(airflow), "the watching begins")
    publish(store, "2013-03", "healthy")
    publish(store, "2013-04", "retrain")
    airflow.parsed("moved")
    client.set_registered_model_alias(ledger.model, "champion", "1")
    airflow.until(lambda: airflow.runs("watching"), "the report starts the DAG")
    airflow.until(lambda: "2013-04" in remembered(airflow), "the trigger knows that it has fired")
    airflow.until(lambda: airflow.runs("moved"), "the move starts the DAG")
    airflow.until(lambda: "3" in remembered(airflow, "mlops.registry."), "the trigger knows that entry 3 is delivered")
    airflow.kill("triggerer")
    publish(store, "2013-05", "retrain")
    client.set_registered_model_alias(ledger.model, "champion", "3")
    airflow.start("triggerer")
    airflow.until(lambda: "2013-05" in remembered(airflow), "what came in the meantime is fired", timeout=600)
    airflow.until(lambda: len(airflow.runs("watching")) > 1, "it starts the DAG")
    airflow.until(lambda: len(airflow.runs("moved")) > 1, "the move starts the DAG", timeout=600)
    assert told(airflow, "watching") == ["2013-04", "2013-05"]
    assert told(airflow, "moved") == [1, 3]
    # The runs have ended. Remove the watcher now, because each of its checks takes CPU time of MLflow's server.
    (airflow.dags / "moved.py").write_text(
        'from airflow.sdk import DAG, Asset\nDAG("moved", schedule=[Asset("moved")])\n'
    )
    assert [entry.decision for entry in ledger.entries()] == ["promoted", "promoted", "moved_outside", "moved_outside"]
