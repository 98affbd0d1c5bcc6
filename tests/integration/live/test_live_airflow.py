"""One real Airflow, with its scheduler, workers, API server and login, running DAGs of this package's operators."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.support.live import LiveAirflow

pytestmark = pytest.mark.slow

# The first try of the task finishes the step and then its worker is killed. The second try must not read the numbers
# again.
NUMBERS = """
from datetime import timedelta
from airflow.sdk import DAG, Asset, PartitionedAtRuntime
from airflow_mlops.operators import IngestOperator

class UnluckyIngestOperator(IngestOperator):
    def finish(self, result, context):
        super().finish(result, context)
        if context["ti"].try_number == 1:
            raise ConnectionError("the worker lost its XCom")

with DAG("numbers", schedule=PartitionedAtRuntime(), catchup=False):
    UnluckyIngestOperator(
        task_id="ingest",
        name="numbers",
        files={files!r},
        time_column="time",
        window="{{{{ partition_key }}}}",
        retries=1,
        retry_delay=timedelta(0),
        outlets=[Asset("mlops://live/numbers")],
    )
"""

# The asset starts this DAG for its partition. The task writes a page, links to it, and returns whether the scheduler
# had preloaded a module.
REPORT = """
import sys
LOADED = "preloaded_for_test" in sys.modules

from airflow.sdk import DAG, Asset, BaseOperator, PartitionedAssetTimetable
from airflow_mlops.links import ReportLink

class ReportOperator(BaseOperator):
    operator_extra_links = (ReportLink(),)
    def execute(self, context):
        from airflow_mlops.data.store import ArtifactStore
        from airflow_mlops.settings import default_store
        store = ArtifactStore(default_store())
        key = f"reports/numbers/{context['partition_key']}.html"
        store.write_bytes(key, b"<html><body>the numbers</body></html>")
        store.write_bytes("datasets/private.html", b"not for you")
        return {"report_url": store.url_of(key), "preloaded": LOADED, "month": context["partition_key"]}

with DAG("report", schedule=PartitionedAssetTimetable(assets=Asset("mlops://live/numbers")), catchup=False):
    ReportOperator(task_id="report")
"""


@pytest.fixture(scope="module")
def dags(airflow: LiveAirflow) -> None:
    csv = airflow.home / "numbers.csv"
    csv.write_text("time,n\n2013-04-02T00:00:00Z,1\n2013-04-03T00:00:00Z,2\n2013-05-01T00:00:00Z,3\n")
    (airflow.dags / "numbers.py").write_text(textwrap.dedent(NUMBERS.format(files=str(csv))))
    (airflow.dags / "report.py").write_text(textwrap.dedent(REPORT))


@pytest.fixture(scope="module")
def april(airflow: LiveAirflow, dags: None) -> str:
    """A run of ``numbers`` for April that has ended well, on its second try."""
    run_id = airflow.trigger("numbers", partition_key="2013-04")
    airflow.wait_for_success("numbers", run_id)
    return run_id


@pytest.fixture(scope="module")
def report(airflow: LiveAirflow, april: str) -> str:
    """The run of ``report`` that April's numbers started."""
    airflow.parsed("report")
    runs = airflow.until(lambda: airflow.runs("report"), "the asset starts the DAG report")
    airflow.wait_for_success("report", runs[0]["dag_run_id"])
    return str(runs[0]["dag_run_id"])


def results(airflow: LiveAirflow) -> list[Path]:
    return sorted((airflow.home / "artifacts" / "results" / "numbers").rglob("*.json"))


def test_a_task_leaves_its_result_its_dataset_and_its_asset_event(airflow: LiveAirflow, april: str, report: str):
    # Airflow 3.3.2 answers with status 500 until the run that the event started has begun. The fixture ``report`` waits
    # for its end.
    result = airflow.xcom("numbers", april, "ingest")
    assert result["dataset"]["rows"] == 2
    assert list((airflow.home / "artifacts").rglob(f"manifests/{result['dataset']['id']}.json"))
    (event,) = airflow.asset_events("source_dag_id=numbers")
    assert event["partition_key"] == "2013-04"
    assert event["extra"]["dataset"]["id"] == result["dataset"]["id"]
    assert result["summary"] in airflow.logs("numbers", april, "ingest", try_number=2)


def test_the_partition_key_is_passed_to_the_dag_that_the_asset_starts(airflow: LiveAirflow, report: str):
    assert len(airflow.runs("report")) == 1
    assert airflow.get(f"/api/v2/dags/report/dagRuns/{report}")["partition_key"] == "2013-04"
    assert airflow.xcom("report", report, "report")["month"] == "2013-04"


def test_a_link_leads_to_a_page_that_only_a_user_sees(airflow: LiveAirflow, report: str):
    link = airflow.links("report", report, "report")["Drift report"]
    assert link == f"{airflow.url}/mlops/artifacts/reports/numbers/2013-04.html"
    path = link.removeprefix(airflow.url)
    status, headers, body = airflow.request("GET", path)
    assert (status, body) == (200, b"<html><body>the numbers</body></html>")
    assert headers["content-type"].startswith("text/html")
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert airflow.request("GET", path, token=False)[0] == 401
    assert airflow.request("POST", path, {})[0] == 405


@pytest.mark.parametrize(
    "key",
    [
        "datasets/private.html",
        "reports/../datasets/private.html",
        "reports/%2e%2e/datasets/private.html",
        "reports/..%2Fdatasets/private.html",
        "..%2f..%2fairflow.db",
        "reports/none.html",
        "reports/numbers",
    ],
)
def test_nothing_else_is_served(airflow: LiveAirflow, report: str, key: str):
    assert airflow.request("GET", f"/mlops/artifacts/{key}")[0] == 404


def test_the_scheduler_preloads_the_configured_modules_and_ignores_missing_ones(airflow: LiveAirflow, report: str):
    output = airflow.output("scheduler")
    assert output.count("Preloaded module preloaded_for_test in") == 1
    assert output.count("no_such_module cannot be imported (ModuleNotFoundError") == 1
    assert airflow.xcom("report", report, "report")["preloaded"] is True
    assert "Preloaded module" not in airflow.output("triggerer")


def test_a_retry_returns_the_stored_result_and_a_cleared_task_runs_again(airflow: LiveAirflow, april: str):
    (ingest,) = airflow.task_instances("numbers", april)
    assert ingest["try_number"] == 2
    again = "An earlier try of this task finished the step"
    assert again not in airflow.logs("numbers", april, "ingest", try_number=1)
    assert again in airflow.logs("numbers", april, "ingest", try_number=2)
    assert len(results(airflow)) == 1

    airflow.clear("numbers", april, "ingest")
    airflow.wait_for_success("numbers", april)
    (ingest,) = airflow.task_instances("numbers", april)
    assert ingest["try_number"] == 3
    assert again not in airflow.logs("numbers", april, "ingest", try_number=3)
    assert len(results(airflow)) == 2


def test_airflow_shows_the_provider_the_plugin_and_the_connection_form(airflow: LiveAirflow):
    providers = {p["package_name"] for p in airflow.get("/api/v2/providers?limit=100")["providers"]}
    assert "airflow-mlops" in providers
    plugins = {p["name"]: p for p in airflow.get("/api/v2/plugins?limit=100")["plugins"]}
    assert plugins["mlops"]["fastapi_apps"][0]["url_prefix"] == "/mlops"
    assert airflow.get("/api/v2/plugins/importErrors")["total_entries"] == 0
    forms = {form["connection_type"]: form for form in airflow.get("/ui/connections/hook_meta")}
    assert forms["mlflow"]["hook_name"] == "MLflow"
    assert forms["mlflow"]["standard_fields"]["host"]["title"] == "Tracking URI"
    assert list(forms["mlflow"]["extra_fields"]) == ["ui_url", "artifacts"]
