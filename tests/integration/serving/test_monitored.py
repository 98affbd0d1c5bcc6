"""A server's log in the monthly monitoring: days with requests and days without, labels, and a report."""

from __future__ import annotations

import os
import time
import uuid
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import requests
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import find_datasets
from airflow_mlops.data.datasets.pointers import window_keys
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.layout import servers_folder
from airflow_mlops.settings import default_store
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.integration.serving.test_server import served
from tests.support.deployed import FEATURES, flights, promote, scoring_set, write

ROOT = Path(__file__).parents[3]
# With a month as the partition key, these are the tasks of dags/flights_monitor.py.
DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import JoinLabelsOperator, MonitorOperator

with DAG("monitor_{model}", default_args={{"model": "{model}"}}):
    joined = JoinLabelsOperator(
        task_id="join_labels",
        predictions={{"name": "{model}_predictions", "window": "2026-03"}},
        labels={{"name": "arrivals_{model}", "window": "2026-03"}},
        on=["request_id", "request_row"], label={{"name": "late", "expression": "arr_delay > 15"}},
    )
    MonitorOperator(task_id="monitor", dataset=joined.output, window="2026-03", policy={{"tolerance": 0.02}})
"""
# Rows by day. On all other days, the server runs and gets no requests.
REQUESTS = {1: 700, 2: 500, 4: 800}


def test_a_month_with_days_without_requests_is_monitored(run_dag, client, mlflow_server, tmp_path):
    store = ArtifactStore(default_store())
    model = f"delays_{uuid.uuid4().hex[:8]}"
    promote(client, tmp_path, store, model)
    ahead = tmp_path / "ahead"

    def go(day: int, month: int = 3) -> None:
        moment = datetime.fromisoformat(f"2026-0{month}-{day:02}T00:05:00+00:00").timestamp()
        new = tmp_path / "new"
        new.write_text(str(moment - time.time()))
        new.rename(ahead)

    # Its processes import tests/support/clock/sitecustomize.py.
    environment = {
        "MLOPS_TEST_CLOCK": str(ahead), "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "support" / "clock"), str(ROOT)])
    }  # fmt: skip
    data, sent = flights(sum(REQUESTS.values()), seed=2), []
    rows = data.select(FEATURES).to_pylist()
    go(1)
    where = SimpleNamespace(model=model, url=store.url, mlflow=mlflow_server)
    with served(where, tmp_path / "spool", **environment) as server:
        # The record of the server begins with the first state that the server sends, within five seconds.
        end = time.monotonic() + 60
        while not store.keys(servers_folder(model)):
            assert time.monotonic() < end, server.lines
            time.sleep(0.1)
        for day, count in REQUESTS.items():
            go(day)
            for start in range(0, count, 100):
                some = rows[len(sent) : len(sent) + 100]
                body = {"id": f"{day}-{start}", "rows": some}
                found = requests.post(server.predict, json=body, timeout=20).json()["predictions"]
                sent += [(f"{day}-{start}", number, item["score"]) for number, item in enumerate(found)]
        assert len(sent) == len(rows)
        go(1, month=4)
        name, window = f"{model}_predictions", Window.model_validate("2026-03")
        end = time.monotonic() + 120
        while len(window_keys(store, name, window)) < 31:
            assert time.monotonic() < end, server.lines
            time.sleep(0.5)
    logged = {item.window.label: item.rows for item in find_datasets(store, name, window)}
    assert logged == {f"2026-03-{day:02}": REQUESTS.get(day, 0) for day in range(1, 32)}

    # Predictions of a batch would hide them.
    batch = ScoreSpec(model=model, dataset=scoring_set(store, flights(10), "2026-03", f"scoring_{model}"))
    with pytest.raises(SpecError, match="2026-03-01"):
        score.run(batch, StepContext(store=store))

    # One flight in ten has not arrived yet.
    ids, numbers, scores = zip(*sent, strict=True)
    delay = data["arr_delay"].to_numpy()
    known = np.arange(len(sent)) % 10 != 0
    labels = pa.table({"request_id": ids, "request_row": pa.array(numbers, pa.int64()), "arr_delay": delay})
    write(store, f"arrivals_{model}", labels.filter(pa.array(known)), "2026-03")
    outcome = run_dag(DAG.format(model=model))
    assert outcome.states() == {"join_labels": "success", "monitor": "success"}
    joined, checked = outcome.xcom("join_labels"), outcome.xcom("monitor")

    scores, late = np.array(scores), delay > 15
    assert (joined["rows"], joined["labelled"], joined["coverage"]) == (len(sent), known.sum(), known.mean())
    assert (checked["decision"], checked["scored_by"]["version"]) == ("healthy", 1)
    measured = checked["metrics"]
    assert (measured["rows"], measured["labelled"], measured["coverage"]) == (len(sent), known.sum(), known.mean())
    assert measured["roc_auc"] == pytest.approx(roc_auc_score(late[known], scores[known]), abs=1e-9)
    assert measured["positive_rate"] == pytest.approx((scores >= 0.5).mean(), abs=1e-9)
    # A row counts as late with its probability, and as not late with the rest of it.
    probability = LogisticRegression().fit(*held_out()).predict_proba(logit(scores)[:, None])[:, 1]
    estimate = roc_auc_score(
        np.repeat([True, False], len(sent)),
        np.tile(scores, 2),
        sample_weight=np.concatenate([probability, 1 - probability]),
    )
    assert measured["estimated_roc_auc"] == pytest.approx(estimate, abs=5e-3)

    # A check of a day without requests says so.
    context = StepContext(store=store)
    spec = JoinLabelsSpec(
        predictions={"name": name, "window": "2026-03-03"}, labels={"name": f"arrivals_{model}", "window": "2026-03"},
        on=["request_id", "request_row"], label={"name": "late", "expression": "arr_delay > 15"}, name=f"{model}_day",
    )  # fmt: skip
    day = join_labels.run(spec, context).dataset
    found = monitor.run(MonitorSpec(model=model, dataset=day, window="2026-03-03"), context)
    assert (found.decision, found.metrics["rows"]) == ("watch", 0)
    assert "No predictions" in found.reason


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """The logits of the scores at training, and the labels."""
    training = flights(seed=1)
    return training["distance"].to_numpy()[:, None], training["arr_delay"].to_numpy() > 15
