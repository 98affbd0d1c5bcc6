"""The sensors as tasks: what they return, how they fail, and when they skip."""

from __future__ import annotations

import uuid

import pytest

from tests.support.reports import publish

DAG = """
from datetime import timedelta
from airflow.sdk import DAG
from airflow_mlops.sensors import ModelHealthSensor

with DAG("model_health_{name}"):
    ModelHealthSensor(task_id="well", model="delays", store={store!r}, poke_interval=0.1, retries=1, retry_delay=timedelta(0), **{options!r})
"""


def run(run_dag, store, **options):
    return run_dag(DAG.format(name=uuid.uuid4().hex, store=store.url, options=options))


def test_a_model_that_is_well_is_told_with_a_link_to_its_report(run_dag, store):
    publish(store, "2013-04", "watch")
    done = run(run_dag, store, window="2013-04")
    assert done.states() == {"well": "success"}
    told = done.xcom("well")
    assert {**told, "created": ""} == {
        "decision": "watch", "reason": "It was watch.", "model": "delays", "window": "2013-04-01T00:00:00Z/2013-05-01T00:00:00Z",
        "created": "", "report_url": store.url_of("reports/delays/2013-04.html"),
        "summary": "delays in 2013-04: watch. It was watch.",
    }  # fmt: skip
    assert done.xcom("well", "_link_ReportLink") == told["report_url"]


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
def test_any_other_verdict_fails_at_once_or_skips(decision, options, state, deferrable, run_dag, store):
    publish(store, "2013-04", decision)
    assert run(run_dag, store, deferrable=deferrable, **options).states() == {"well": state}


def test_without_a_report_a_sensor_waits_until_its_timeout(run_dag, store):
    assert run(run_dag, store, timeout=0.2, soft_fail=True).states() == {"well": "skipped"}
