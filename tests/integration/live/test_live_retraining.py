"""A request for retraining in a real Airflow: from monitoring through the asset's event to MLflow, the gates and the ledger."""

from __future__ import annotations

import pytest

from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.ledger import Ledger
from tests.support.candidates import training_set
from tests.support.live import LiveAirflow

pytestmark = pytest.mark.slow

DAGS = """
from datetime import timedelta
from airflow.sdk import DAG, Asset, PartitionedAssetTimetable, PartitionedAtRuntime
from airflow_mlops.operators import EvaluateOperator, MonitorOperator, PromoteOperator, TrainOperator
from airflow_mlops.trainers import SklearnTrainer

class UnluckyTrainOperator(TrainOperator):
    def finish(self, result, context):
        super().finish(result, context)
        if context["ti"].try_number == 1:
            raise ConnectionError("the worker lost its XCom")

args = {{"model": "asked"}}
with DAG("monitor", schedule=PartitionedAtRuntime(), catchup=False, default_args=args):
    MonitorOperator(task_id="monitor", dataset=None, window="{{{{ partition_key }}}}")

wanted = PartitionedAssetTimetable(assets=Asset("mlops://asked/retrain"))
with DAG("train", schedule=wanted, catchup=False, default_args=args):
    fit = UnluckyTrainOperator(
        task_id="train", dataset={dataset!r}, trainer=SklearnTrainer("sklearn.linear_model.LogisticRegression"),
        retries=1, retry_delay=timedelta(0),
    )
    verdict = EvaluateOperator(task_id="evaluate", candidates=[fit.output], gates=[{{"metric": "roc_auc", "min": 0.999}}])
    PromoteOperator(task_id="promote", verdict=verdict.output)
"""


@pytest.fixture(scope="module", autouse=True)
def dags(airflow: LiveAirflow) -> None:
    dataset = training_set(ArtifactStore(f"file://{airflow.home}/artifacts")).model_dump(mode="json")
    (airflow.dags / "retraining.py").write_text(DAGS.format(dataset=dataset))


def check(airflow: LiveAirflow, window: str) -> tuple[str, dict]:
    """Monitor a window, and return the run and the result."""
    run_id = airflow.trigger("monitor", partition_key=window)
    airflow.wait_for_success("monitor", run_id)
    return run_id, airflow.xcom("monitor", run_id, "monitor")


def test_a_request_and_its_reason_are_recorded_with_the_training_and_its_decision(airflow: LiveAirflow, client):
    airflow.parsed("train")
    _, asked = check(airflow, "2013-04")
    reason = "Model 'asked' has no champion yet. Train and promote a first version of model 'asked'."
    request = asked["request"]
    assert (asked["decision"], request["id"], request["reason"]) == ("retrain", "asked/2013-04", reason)
    run_id = airflow.until(lambda: airflow.runs("train"), "the request starts the training")[0]["dag_run_id"]
    airflow.wait_for_success("train", run_id, 300)

    # The training task had two tries, and trained once.
    assert "An earlier try of this task finished the step" in airflow.logs("train", run_id, "train", try_number=2)
    tags = client.get_run(airflow.xcom("train", run_id, "train")["run_id"]).data.tags
    assert {name: value for name, value in tags.items() if name.startswith("mlops.retrain.")} == {
        "mlops.retrain.request": "asked/2013-04",
        "mlops.retrain.trigger": "no_champion",
        "mlops.retrain.reason": reason,
        "mlops.retrain.window": "2013-04",
    }
    entries = Ledger(ArtifactStore(f"file://{airflow.home}/artifacts"), "asked").entries()
    assert [(entry.decision, entry.requested.model_dump(mode="json")) for entry in entries] == [
        ("requested", request),
        ("refused", request),
    ]

    # A second check of the same window returns the same decision and starts nothing.
    again, checked = check(airflow, "2013-04")
    assert (checked["decision"], checked["request"]) == ("retrain", request)
    assert "No second event is sent" in airflow.logs("monitor", again, "monitor")
    # A window with no more data than that of the refused candidates does not request retraining.
    _, earlier = check(airflow, "2013-03")
    assert (earlier["decision"], earlier["request"]) == ("watch", None)
    assert "the request of 2013-04 were refused" in earlier["reason"]
    assert len(airflow.asset_events("source_dag_id=monitor")) == 1
    assert len(airflow.runs("train")) == 1
