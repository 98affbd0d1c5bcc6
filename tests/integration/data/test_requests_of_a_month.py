"""The number of requests to S3 that a month of the lifecycle takes, for a model with a champion."""

from __future__ import annotations

from collections import Counter

import pytest

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.stages.runner import run_call
from tests.support import object_stores
from tests.support.lifecycle import MONTHS, Lifecycle

# Here, the second month takes 152 requests. `python -m benchmarks.store` counts the requests of the third month, which
# docs/reliability.md states.
LIMIT = 154


def test_a_month_takes_few_requests(mlflow_connection, tmp_path, monkeypatch):
    s3fs = pytest.importorskip("s3fs")
    call_s3, requests, step = s3fs.S3FileSystem._call_s3, Counter(), [""]

    async def counting(self, method, *args, **kwargs):
        requests[step[0]] += 1
        return await call_s3(self, method, *args, **kwargs)

    connection = ConnectionInfo(conn_id="mlflow_default", conn_type="mlflow", host=mlflow_connection)

    def run(call):
        step[0] = call.step
        return run_call(call, lambda _: connection)

    with object_stores.s3() as url:
        lifecycle = Lifecycle(url, tmp_path, run, model="requests", rows=400)
        lifecycle.month(MONTHS[0])
        monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counting)
        lifecycle.month(MONTHS[1])
    assert requests.total() <= LIMIT, requests
    # The requests were counted.
    assert requests["ingest"] >= 5
