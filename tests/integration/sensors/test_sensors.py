"""The sensors as tasks: their results, failures and skips."""

from __future__ import annotations

import uuid

import pytest

from tests.support.reports import publish

DAG = """
from datetime import timedelta
from airflow.sdk import DAG
from airflow_mlops.sensors import ModelHealthSensor

with DAG("model_health_{name}"):
    ModelHealthSensor(task_id="health", model="delays", store={store!r}, poke_interval=0.1, retries=1, retry_delay=timedelta(0), **{options!r})
"""


def run(run_dag, store, **options):
    return run_dag(DAG.format(name=uuid.uuid4().hex, store=store.url, options=options))


def test_an_accepted_decision_is_returned_with_a_link_to_the_report(run_dag, store):
    publish(store, "2013-04", "watch")
    done = run(run_dag, store, window="2013-04")
    assert done.states() == {"health": "success"}
    result = done.xcom("health")
    assert {name: result[name] for name in ("decision", "headline", "model", "window", "report_url")} == {
        "decision": "watch",
        "headline": "It was watch",
        "model": "delays",
        "window": "2013-04-01T00:00:00Z/2013-05-01T00:00:00Z",
        "report_url": store.url_of("reports/delays/2013-04.html"),
    }
    assert done.xcom("health", "_link_ReportLink") == result["report_url"]


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(
    ("decision", "options", "state"),
    [
        ("retrain", {}, "failed"),
        ("retrain", {"soft_fail": True}, "skipped"),
        ("retrain", {"accept": ["retrain"]}, "success"),
        ("healthy", {"accept": ["good"]}, "failed"),
    ],
)
def test_any_other_decision_fails_without_a_retry_or_skips(decision, options, state, deferrable, run_dag, store):
    publish(store, "2013-04", decision)
    assert run(run_dag, store, deferrable=deferrable, **options).states() == {"health": state}


def test_a_sensor_without_a_report_waits_until_its_timeout(run_dag, store):
    assert run(run_dag, store, timeout=0.2, soft_fail=True).states() == {"health": "skipped"}
