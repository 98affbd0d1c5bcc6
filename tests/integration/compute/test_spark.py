"""Build training sets, score, profile, validate and join labels on a real Spark with two workers: the results of the worker, and errors as one sentence."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tarfile
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.compute import Spark
from airflow_mlops.compute.spark.executors import SparkExecutors
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import ComputeError, DatasetCorruptError, SpecError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.feast import join as feast_join
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast import request as feast_request
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.joining import FILE_ROWS
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.training_set import spread
from airflow_mlops.stages.training_set import step as training_set
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.stages.usage import Meter
from airflow_mlops.stages.validate import step as validate
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.spec import ValidateSpec
from tests.integration.conftest import free_port
from tests.support.deployed import flights, promote, scoring_set, write
from tests.support.feature_repo import FEATURE_STORE, PLACES
from tests.support.object_stores import S3Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("java"), reason="Spark needs Java: apt-get install default-jre-headless"),
]

MASTER, SECRET = "local-cluster[2,1,1024]", "SpArKsEcReT0123456789"
ROWS = 9_000
# The JVM runs only for a short time, so full optimisation would cost more than it saves. Verifying the bytecode of Spark
# takes a tenth of the CPU time.
_CHEAP = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"

DAG = """
from airflow.sdk import DAG
from airflow_mlops.compute import Spark
from airflow_mlops.operators import JoinLabelsOperator, ProfileOperator, ScoreOperator

data = {{"name": "scoring_{model}", "window": "2013-04"}}
spark = Spark(conf={{"spark.pyspark.python": {python!r}}})
with DAG("spark_{model}", default_args={{"model": "{model}"}}):
    there = ScoreOperator(task_id="there", dataset=data, run_on=spark)
    here = ScoreOperator(task_id="here", dataset=data, name="predicted_here")
    ProfileOperator(task_id="profile_there", dataset=there.output, run_on=spark)
    ProfileOperator(task_id="profile_here", dataset=there.output)
    late = {{"name": "late", "expression": "arr_delay > 15"}}
    outcomes = {{"predictions": there.output, "labels": data, "on": ["flight"], "label": late}}
    JoinLabelsOperator(task_id="labels_there", **outcomes, run_on=spark)
    JoinLabelsOperator(task_id="labels_here", **outcomes)
"""


class Cluster:
    """A driver in this process with two workers, which also serves Spark Connect."""

    def __init__(self, folder: Path) -> None:
        import pyspark
        from pyspark.sql import SparkSession

        self.events = folder / "events"
        self.events.mkdir()
        self.port = free_port()
        settings = {
            "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
            "spark.connect.grpc.binding.port": self.port,
            # A server of Spark Connect sets this option itself. Without it, executors ask for the files of ended
            # sessions.
            "spark.sql.artifact.isolation.enabled": "true",
            "spark.eventLog.enabled": "true",
            "spark.eventLog.compress": "false",
            "spark.eventLog.dir": f"file://{self.events}",
            "spark.driver.memory": "512m",
            "spark.executor.memory": "512m",
            "spark.driver.extraJavaOptions": _CHEAP,
            "spark.executor.extraJavaOptions": _CHEAP,
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.local.dir": str(folder),
        }
        builder = SparkSession.builder.master(MASTER)
        for name, value in settings.items():
            builder = builder.config(name, value)
        self.session = builder.getOrCreate()
        # The logs of the executors are in the folder of PySpark.
        self.logs = Path(pyspark.__file__).parent / "work" / self.session.sparkContext.applicationId

    def stop(self) -> None:
        self.session.stop()
        os.environ.pop("SPARK_CONNECT_MODE_ENABLED", None)

    def connection(self, conn_id: str = "spark_connect_default") -> ConnectionInfo:
        return ConnectionInfo.of(conn_id, conn_type="spark_connect", host="sc://127.0.0.1", port=self.port)

    def executors(self, store: ArtifactStore, connection: ConnectionInfo | None = None) -> SparkExecutors:
        place = Spark(conf={"spark.pyspark.python": sys.executable})
        return SparkExecutors(place, store.url, lambda _: connection or self.connection(), "a test")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    pytest.importorskip("pyspark", reason="PySpark is not installed: pip install airflow-mlops[spark]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        found = Cluster(tmp_path_factory.mktemp("spark"))
        yield found
        found.stop()
        shutil.rmtree(found.logs, ignore_errors=True)


def test_scores_profiles_and_labels_are_the_same_as_on_the_worker(cluster, run_dag, client, tmp_path):
    from airflow_mlops.settings import default_store

    store = ArtifactStore(default_store())
    model = promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}").model
    scoring_set(store, flights(ROWS), "2013-04", f"scoring_{model}")
    connection = json.dumps({"conn_type": "spark_connect", "host": "sc://127.0.0.1", "port": cluster.port})
    done = run_dag(DAG.format(model=model, python=sys.executable), connections={"spark_connect_default": connection})
    assert set(done.states().values()) == {"success"}
    results = {task: done.xcom(task) for task in ("there", "here")}
    tables = {}
    for task, result in results.items():
        dataset = open_dataset(store, DatasetRef.model_validate(result["dataset"]))
        tables[task] = dataset.table().drop_columns(["scored_at", "latency_ms"])
        assert result["usage"]["rows"] == result["dataset"]["rows"] == ROWS
        assert result["engine"].startswith("onnxruntime")
    assert tables["there"].equals(tables["here"])
    # Several executors wrote files. None passed through this process.
    assert len(open_dataset(store, DatasetRef.model_validate(results["there"]["dataset"])).manifest.files) == 8
    assert results["there"]["usage"]["read_bytes"] > 0
    profiles = {place: done.xcom(f"profile_{place}")["profile"] for place in ("there", "here")}
    assert profiles["there"] == profiles["here"]
    labelled = {place: done.xcom(f"labels_{place}") for place in ("there", "here")}
    assert labelled["there"]["dataset"] == labelled["here"]["dataset"]
    assert (labelled["there"]["labelled"], labelled["there"]["usage"]["rows"]) == (ROWS, ROWS)
    assert len(store.find("checkpoints/join_labels/parts")) == 1


def test_the_part_of_a_lost_executor_runs_again(cluster, store, tmp_path):
    code = """
import os
import pathlib
import airflow_mlops

def part(store, arguments, number):
    marker = pathlib.Path(arguments["folder"]) / str(number)
    if number == 1 and not marker.exists():
        marker.touch()
        os._exit(1)
    return [airflow_mlops.__file__, os.environ["AWS_SECRET_ACCESS_KEY"]]
"""
    (tmp_path / "lost_part.py").write_text(code)
    executors = cluster.executors(store)
    executors._opened().spark.addArtifacts(str(tmp_path / "lost_part.py"), pyfile=True)
    context = StepContext(store, executors=executors)
    found = context.spread("lost_part:part", {"folder": str(tmp_path)}, [0, 1])
    executors.close()
    assert (tmp_path / "1").exists()
    # The executors run the package version of this process, not the version that is installed on their machine.
    assert all(".zip/airflow_mlops/" in file for file, _ in found)
    assert [secret for _, secret in found] == [SECRET, SECRET]


def test_executors_read_and_write_a_store_in_s3(cluster, client, tmp_path, monkeypatch):
    server = S3Server()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.options["client_kwargs"]["endpoint_url"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", server.options["client_kwargs"]["region_name"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    try:
        store = ArtifactStore(server.url)
        model = promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}").model
        spec = ScoreSpec(model=model, dataset=scoring_set(store, flights(ROWS), "2013-04"))
        executors, meter = cluster.executors(store), Meter(store)
        found = score.run(spec, StepContext(store, meter=meter, executors=executors))
        arguments = " ".join(
            word for process in psutil.process_iter(["cmdline"]) for word in process.info["cmdline"] or ()
        )
        settings = str(cluster.session.sparkContext.getConf().getAll())
        executors.close()
        there = open_dataset(store, found.dataset)
        here = open_dataset(store, score.run(spec, StepContext(store)).dataset)
        tables = [dataset.table().drop_columns(["scored_at", "latency_ms"]) for dataset in (there, here)]
        assert tables[0].equals(tables[1])
    finally:
        server.stop()
    # Executors have written all rows, and read the rows and the model.
    assert len(there.manifest.files) == 8
    assert sum(file.bytes for file in there.manifest.files) < meter.usage().written_bytes
    assert SECRET not in arguments
    assert SECRET not in settings


class LosingExecutors:
    """Executors of Spark, one of which is lost after it wrote the files of part 1 and before it reported them."""

    def __init__(self, executors: SparkExecutors, folder: Path) -> None:
        code = """
import os
import pathlib
from importlib import import_module
from airflow_mlops.stages.shards import Round

def part(store, arguments, number):
    marker = pathlib.Path(arguments["marker"])
    first = number[0] if isinstance(number, list) else number
    if first == 1 and not marker.exists() and "survey" not in arguments["function"]:
        Round.add = lambda *_: (marker.touch(), os._exit(1))
    module, _, name = arguments["function"].partition(":")
    return getattr(import_module(module), name)(store, arguments, number)
"""
        (folder / "lost_join.py").write_text(code)
        executors._opened().spark.addArtifacts(str(folder / "lost_join.py"), pyfile=True)
        self._executors, self.marker = executors, folder / "lost"

    def run(self, function, arguments, parts, conn_ids):
        sent = {**arguments, "function": function, "marker": str(self.marker)}
        return self._executors.run("lost_join:part", sent, parts, conn_ids)


def test_labels_are_joined_once_although_an_executor_is_lost_after_it_has_written(cluster, store, tmp_path):
    rows = 2 * FILE_ROWS + 1_000
    made = write(store, "p", pa.table({"id": range(rows), "score": pa.repeat(0.5, rows)}), "2013-04", {"model": "m"})
    labels = write(store, "l", pa.table({"id": range(0, rows, 2), "late": pa.repeat(1, -(-rows // 2))}), "2013-04")
    spec = JoinLabelsSpec(predictions=made, labels=labels, on=["id"], label="late", name="outcomes")
    executors, meter = cluster.executors(store), Meter(store)
    losing = LosingExecutors(executors, tmp_path)
    found = join_labels.run(spec, StepContext(store, meter=meter, executors=losing))
    executors.close()
    assert losing.marker.exists()
    written = open_dataset(store, found.dataset)
    # The file of the lost executor is in the store, but in no dataset.
    assert len(store.find("datasets/outcomes/files")) == 1 + len(written.manifest.files) == 4
    assert meter.usage().written_bytes > sum(file.bytes for file in written.manifest.files)
    assert join_labels.run(spec, StepContext(store)) == found
    assert (found.rows, found.labelled) == (rows, -(-rows // 2))


def test_a_training_set_is_that_of_the_worker_although_an_executor_is_lost(cluster, store, tmp_path, monkeypatch):
    monkeypatch.setattr(spread, "BLOCK_ROWS", 50)
    (tmp_path / "feature_store.yaml").write_text(FEATURE_STORE)
    (tmp_path / "places.py").write_text(PLACES)
    start = datetime(2013, 4, 1, tzinfo=timezone.utc)
    times = [start + timedelta(minutes=number) for number in range(300)]
    at = pa.array(times[::3], pa.timestamp("us", "UTC"))
    places = pa.table({"place": [f"P{number % 7}" for number in range(100)], "at": at, "value": range(100)})
    pq.write_table(places, tmp_path / "places.parquet")
    repo = feast_repo.open_store(str(tmp_path))
    feast_repo.apply(repo, feast_repo.parse_repo(repo))
    events = pa.table({"place": [f"P{number % 8}" for number in range(300)], "time": times[::-1], "late": [0, 1] * 150})
    made = [write(store, "events", events.slice(150 * month, 150), f"2013-0{month + 4}") for month in (0, 1)]
    spec = TrainingSetSpec(
        name="training", entities=made, timestamp="time", repo=str(tmp_path), features=["first:value"], label="late"
    )
    executors, meter = cluster.executors(store), Meter(store)
    losing = LosingExecutors(executors, tmp_path)
    there = training_set.run(spec, StepContext(store, meter=meter, executors=losing))
    executors.close()
    assert losing.marker.exists()
    written = {file.path for file in open_dataset(store, there.dataset).manifest.files}
    # The file of the lost executor is in the store, but in no dataset. The joined rows are deleted.
    assert len({*store.find("datasets/training/files")} - written) == 1
    assert training_set.run(spec, StepContext(store)) == there
    assert sum(there.rows.values()) == 300
    assert meter.usage().written_bytes > 0


def test_rows_are_validated_as_on_the_worker(cluster, store, monkeypatch):
    monkeypatch.setattr(validate, "Rows", lambda datasets: Rows(datasets, batch_rows=100))
    made = []
    for month, size in ((4, 130), (5, 70)):
        numbers = [None if number % 9 == 0 else number for number in range(size)]
        keys = [f"{month}-{number if number % 50 else 0}" for number in range(size)]
        made.append(write(store, "rows", pa.table({"number": numbers, "key": keys}), f"2013-0{month}"))
    expectations = [
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "number"}},
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "number", "max_value": 60, "mostly": 0.1}},
        {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "key", "regex": "[0-8]$"}},
        {"type": "expect_column_values_to_be_unique", "kwargs": {"column": "key"}},
        {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "number", "min_value": 1}},
    ]
    suite = {"name": "s", "expectations": expectations}
    spec = ValidateSpec(dataset=made, suite=suite, on_failure="quarantine")
    executors, meter = cluster.executors(store), Meter(store)
    there = validate.run(spec, StepContext(store, meter=meter, executors=executors))
    executors.close()
    written = {key for name in ("valid", "quarantine") for key in store.find(f"datasets/rows_{name}/files")}
    here = validate.run(spec, StepContext(store))
    assert there.model_dump(exclude={"docs_url"}) == here.model_dump(exclude={"docs_url"})
    assert 0 < there.quarantined.rows < there.dataset.rows == 200 - there.quarantined.rows
    assert [outcome.success for outcome in there.outcomes].count(False) == 3
    # Two parts wrote two files each.
    assert len(written) == 4
    assert meter.usage().written_bytes > 0


def test_an_error_of_an_executor_is_the_error_of_the_step(cluster, store, client, tmp_path):
    model = promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}").model
    dataset = scoring_set(store, flights(3_000), "2013-04")
    (file,) = open_dataset(store, dataset).manifest.files
    store.local_path(file.path).write_bytes(b"changed")
    # The Spark session existed before, so it stays open after the executors are closed.
    connection = ConnectionInfo.of("spark", conn_type="spark", host=MASTER)
    executors = cluster.executors(store, connection)
    context = StepContext(store, "results/d/r/score/1.json", provenance=Provenance(run_id="r"), executors=executors)
    with pytest.raises(DatasetCorruptError, match="was changed after it was written"):
        score.run(ScoreSpec(model=model, dataset=dataset), context)
    assert not store.find("checkpoints/models")
    executors.close()
    assert cluster.session.range(1).count() == 1


def test_the_error_about_executors_without_python_is_one_sentence(cluster, store):
    place = Spark(conf={"spark.pyspark.python": "/nowhere/python"})
    executors = SparkExecutors(place, store.url, lambda _: cluster.connection(), "a test")
    with pytest.raises(SpecError) as caught:
        executors.run("airflow_mlops.stages.score.on_executors:score_shard", {}, [0], [])
    assert "spark.pyspark.python" in str(caught.value)
    assert "\tat " not in str(caught.value)
    executors.close()


def test_executors_use_the_python_of_a_packed_environment(cluster, store, tmp_path):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexport PACKED=yes\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "packed_part.py").write_text("import os\n\ndef part(*_):\n    return os.environ['PACKED']\n")
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "bin", "bin")
    executors = SparkExecutors(
        Spark(archive=str(tmp_path / "packed.tar.gz")), store.url, lambda _: cluster.connection(), "a test"
    )
    executors._opened().spark.addArtifacts(str(tmp_path / "packed_part.py"), pyfile=True)
    assert StepContext(store, executors=executors).spread("packed_part:part", {}, [0]) == ["yes"]
    executors.close()


def test_a_closed_session_leaves_no_handler_that_needs_the_server_at_exit(cluster, store, monkeypatch):
    left = []
    monkeypatch.setattr(atexit, "register", left.append)
    monkeypatch.setattr(atexit, "unregister", left.remove)
    executors = cluster.executors(store)
    executors._opened()
    (handler,) = left
    assert "cleanup" in handler.__name__
    executors.close()
    assert not left


def test_a_server_that_does_not_answer_is_a_retryable_error(store):
    pytest.importorskip("pyspark")
    nobody = ConnectionInfo.of("spark", conn_type="spark_connect", host="sc://127.0.0.1", port=free_port())
    executors = SparkExecutors(Spark(), store.url, lambda _: nobody, "a test")
    with pytest.raises(ComputeError) as caught:
        executors.run("x:y", {}, [0], [])
    assert caught.value.retryable


def test_spark_never_shows_the_credentials_of_the_store(cluster):
    """Runs last, when the executors have used the credentials."""
    cluster.stop()
    written = [path for folder in (cluster.events, cluster.logs) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.read_bytes().count(b"MapInArrow") for path in written)
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == SECRET


FEATURES = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.types import Array, Bool, Float64, Int64, String, UnixTimestamp

place = Entity(name="place", join_keys=["place"], value_type=ValueType.STRING)
number = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)
source = SparkSource(name="rows", path="ROWS", file_format="parquet", timestamp_field="at",
                     created_timestamp_column="created", field_mapping={"v": "value"})
schema = [Field(name="place", dtype=String), Field(name="number", dtype=Int64), Field(name="value", dtype=Int64),
          Field(name="exact", dtype=Float64), Field(name="yes", dtype=Bool), Field(name="moment", dtype=UnixTimestamp),
          Field(name="many", dtype=Array(Int64))]
pairs = FeatureView(name="pairs", entities=[place, number], ttl=timedelta(hours=1), schema=schema, source=source)
"""


def test_feasts_spark_store_gives_the_same_join_as_files(cluster, tmp_path, monkeypatch):
    """The files of events and results are deleted. Neither the process nor Spark is in UTC."""
    # In New York, the hour before this time has the same text, because summer time ends.
    start = datetime(2013, 11, 3, 6, 30, tzinfo=timezone.utc)
    utc = pa.timestamp("us", "UTC")
    moment, big = start + timedelta(microseconds=1), 2**53 + 1
    rows = [
        # (place, number, minute, minute of creation, value)
        ("a1", 12, 0, 0, 1), ("a11", 2, 0, None, 2), ("b", 1, 0, 5, big), ("b", 1, 0, None, 4), ("b", 1, -61, 0, 5),
        ("b", 1, 1, 0, 6), ("c", 1, -60, 0, 7), ("d", 1, -61, 0, 8),
    ]  # fmt: skip
    places, numbers, at, created, values = (list(column) for column in zip(*rows, strict=True))
    table = pa.table(
        {
            "place": places,
            "number": numbers,
            "at": pa.array([start + timedelta(minutes=minute) for minute in at], utc),
            "created": pa.array([None if m is None else start + timedelta(minutes=m) for m in created], utc),
            "v": values,
            "exact": pa.array([Decimal("0.10")] * len(rows)),
            "yes": [True] * len(rows),
            "moment": pa.array([moment] * len(rows), utc),
            "many": [[1, None]] * len(rows),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    staging = tmp_path / "staging"
    (staging / "mlops_events_20130101T000000_killed").mkdir(parents=True)
    offline = f"offline_store:\n  type: spark\n  staging_location: file://{staging}\n"
    (tmp_path / "feature_store.yaml").write_text(FEATURE_STORE + offline)
    (tmp_path / "definitions.py").write_text(FEATURES.replace("ROWS", f"file://{tmp_path}/rows.parquet"))
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    zone = cluster.session.conf.get("spark.sql.session.timeZone")
    cluster.session.conf.set("spark.sql.session.timeZone", "America/New_York")
    try:
        repo = feast_repo.open_store(str(tmp_path))
        feast_repo.apply(repo, feast_repo.parse_repo(repo))
        names = ["value", "exact", "yes", "moment", "many"]
        request = feast_request.resolve(repo, None, [f"pairs:{name}" for name in names])
        keys = [("a11", 2), ("a1", 12), ("b", 1), ("c", 1), ("d", 1), (None, 1), ("b", 1), ("b", 1)]
        events = pa.table(
            {
                "place": [place for place, _ in keys],
                "number": [number for _, number in keys],
                "time": pa.array([start] * 7 + [start - timedelta(hours=1)], utc),
            }
        )
        found = pa.concat_tables(feast_join.join(repo, request, events, "time"))
        assert cluster.session.conf.get("spark.sql.session.timeZone") == "America/New_York"
    finally:
        cluster.session.conf.set("spark.sql.session.timeZone", zone)
        monkeypatch.undo()
        time.tzset()
    assert found["pairs:value"].to_pylist() == [2, 1, big, 7, None, None, big, 5]
    assert found.slice(0, 1).to_pylist() == [
        {"pairs:value": 2, "pairs:exact": 0.1, "pairs:yes": True, "pairs:moment": moment, "pairs:many": [1, None]}
    ]
    assert list(staging.iterdir()) == []
