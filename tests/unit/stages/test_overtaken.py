"""A try that continues after a later task has written the window again does not make its older rows current."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest

from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import find_datasets, in_slot
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.forecast_rows import step as forecast_rows
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.runner import run_call
from airflow_mlops.stages.training_set import step as training_set
from tests.support.deployed import write
from tests.support.one_duckdb import one_duckdb  # noqa: F401 - a fixture
from tests.support.overtaking import call_of, suspend

pytestmark = pytest.mark.usefixtures("one_duckdb")

APRIL = Window.model_validate("2013-04")
TIMES = [datetime(2013, 4, 1, tzinfo=timezone.utc) + timedelta(hours=number) for number in range(40)]


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(f"file://{tmp_path}/store")


def current(store, name):
    (found,) = find_datasets(store, name, APRIL)
    return found.manifest.id


def test_training_set(store, monkeypatch):
    rows = pa.table({"id": range(40), "at": TIMES, "n": range(40), "late": [True, False] * 20})
    spec = {
        "name": "training", "entities": write(store, "orders", rows, "2013-04").model_dump(mode="json"), "timestamp": "at",
        "columns": ["n"], "keys": ["id"], "label": "late",
    }  # fmt: skip
    later = []
    suspend(
        monkeypatch,
        training_set,
        "_parts",
        call_of(store, "training_set", spec),
        after=lambda: later.append(
            run_call(call_of(store, "training_set", {**spec, "split": {"method": "time", "test_size": 0.5}}, "later"))
        ),
    )
    assert current(store, "training") == later[0]["dataset"]["id"]


def test_forecast_rows(store, monkeypatch):
    rows = pa.table({"shop": ["a"] * 40, "at": TIMES, "sold": [float(number) for number in range(40)]})
    spec = {
        "name": "rows", "entities": write(store, "sales", rows, "2013-04").model_dump(mode="json"), "time": "at", "every": "PT1H",
        "series": ["shop"], "value": "sold", "horizon": 2, "lags": [1],
    }  # fmt: skip
    later = []
    suspend(
        monkeypatch,
        forecast_rows,
        "_facts",
        call_of(store, "forecast_rows", spec),
        after=lambda: later.append(run_call(call_of(store, "forecast_rows", {**spec, "lags": [2]}, "later"))),
    )
    assert current(store, "rows") == later[0]["dataset"]["id"]


def test_join_labels(store, monkeypatch):
    scored = pa.table({"flight": ["1", "2"], "score": [0.1, 0.9]})
    predictions = write(store, "predictions", scored, "2013-04", {"model": "delays", "model_version": 3})
    write(store, "flights", pa.table({"flight": ["1"], "y": [1]}), "2013-04")
    spec = {
        "name": "outcomes", "predictions": predictions.model_dump(mode="json"), "labels": {"name": "flights"}, "on": ["flight"],
        "label": "y",
    }  # fmt: skip
    later = []

    def more_labels():
        write(store, "flights", pa.table({"flight": ["1", "2"], "y": [1, 0]}), "2013-04")
        later.append(run_call(call_of(store, "join_labels", spec, "later")))

    suspend(monkeypatch, join_labels, "check", call_of(store, "join_labels", spec), after=more_labels)
    assert later[0]["labelled"] == 2
    assert current(store, "outcomes") == later[0]["dataset"]["id"]
    assert in_slot(store, "outcomes", predictions.id).manifest.id == later[0]["dataset"]["id"]
