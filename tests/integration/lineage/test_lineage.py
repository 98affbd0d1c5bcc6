"""OpenLineage events that Airflow's provider emits for DAGs with the operators of this package."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jsonschema
import mlflow
import numpy as np
import pytest

from airflow_mlops.core.calls import StepCall
from tests.support.feature_repo import FEATURE_STORE

pytestmark = pytest.mark.slow

SCHEMAS = Path(__file__).parents[3] / "airflow_mlops" / "lineage" / "schemas"
SECRET = "pw-" + uuid.uuid4().hex
START = datetime(2013, 4, 1, tzinfo=timezone.utc)

FEATURES = """
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, String
origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
weather = FeatureView(
    name="weather",
    entities=[origin],
    schema=[Field(name="origin", dtype=String), Field(name="wind", dtype=Float64)],
    source=FileSource(name="weather", path="weather", timestamp_field="time"),
)
known = FeatureService(name="known", features=[weather])
"""
SUITE = {
    "name": "flights",
    "expectations": [
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "distance"}},
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "flight", "min_value": 0}},
    ],
}

LIFECYCLE = """
from airflow.sdk import DAG
from airflow_mlops.operators import *
from airflow_mlops.trainers import SklearnTrainer

defaults = {{"model": {model!r}, "store": {store!r}, "owner": "data-team"}}
with DAG("lifecycle", default_args=defaults):
    flights = IngestOperator(
        task_id="flights", name="flights", window="2013-04", conn_id="lineage_flights", description="What flew",
        sql="SELECT * FROM flights WHERE time >= :start AND time < :end ORDER BY flight",
    )
    weather = IngestOperator(
        task_id="weather", name="weather", files={files!r}, time_column="time", window="2013-04",
    )
    valid = ValidateOperator(task_id="valid", dataset=flights.output, suite={suite!r}, on_failure="quarantine")
    features = MaterializeFeaturesOperator(
        task_id="features", repo={repo!r}, window="2013-04", sources={{"weather": weather.output}},
    )
    data = BuildTrainingSetOperator(
        task_id="data", name="training", entities=valid.output, timestamp="time", repo={repo!r},
        feature_service="known", columns=["distance"], keys=["flight"],
        label={{"name": "late", "expression": "delay > 15"}}, split="hash", max_single_feature_score=1.0,
    )
    features >> data
    fits = TrainOperator.partial(task_id="train", dataset=data.output).expand(
        trainer=[SklearnTrainer("sklearn.linear_model.LogisticRegression")]
    )
    verdict = EvaluateOperator(
        task_id="evaluate", candidates=fits.output, gates=[{{"metric": "roc_auc", "min": 0.6}}]
    )
    champion = PromoteOperator(task_id="promote", verdict=verdict.output)
    again = RollbackOperator(task_id="rollback", to_version="1", reason="to be sure")
    rows = BuildTrainingSetOperator(
        task_id="rows", name="rows", entities={{"name": "flights_valid", "window": "2013-04"}}, timestamp="time",
        repo={repo!r}, features=["weather:wind"], columns=["distance"], keys=["flight"], split=None,
    )
    scored = ScoreOperator(task_id="score", dataset=rows.output)
    joined = JoinLabelsOperator(
        task_id="join", predictions=scored.output, labels=valid.output, on=["flight"],
        label={{"name": "late", "expression": "delay > 15"}},
    )
    seen = ProfileOperator(task_id="profile", dataset=joined.output)
    watched = MonitorOperator(task_id="monitor", dataset=joined.output, profiles=seen.output)
    champion >> again >> rows
"""

FAILING = """
from airflow.sdk import DAG
from airflow_mlops.operators import IngestOperator, ValidateOperator
with DAG("failing", default_args={{"store": {store!r}}}):
    rows = IngestOperator(task_id="rows", name="rows", files={files!r})
    ValidateOperator(task_id="valid", dataset=rows.output, suite={suite!r})
"""

FORGETFUL = """
import shutil
from airflow.sdk import DAG
from airflow_mlops.operators import IngestOperator

class ForgetfulOperator(IngestOperator):
    def finish(self, result, context):
        shutil.rmtree({folder!r} + "/forgetful/datasets")

for name, files in (
    ("forgetful", {folder!r} + "/complete.csv"),
    ("remote", "https://alice:{secret}@127.0.0.1:1/rows.csv?signature={secret}"),
):
    with DAG(name):
        ForgetfulOperator(task_id="rows", name="rows", files=files, format="csv", store="file://{folder}/forgetful")
"""

RUNNER = """
import sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1], bundle_path=sys.argv[2], bundle_name="dags-folder")
assert not bag.import_errors, bag.import_errors
for dag_id, dag in bag.dags.items():
    print("ended:", dag_id, dag.test().state)
"""

Event = dict[str, Any]


def run_emitting(source: str, log: Path, connections: dict[str, str]) -> tuple[dict[str, str], list[Event]]:
    """Run the DAGs of a file in a separate process with the file transport of the OpenLineage provider.

    Return the state of the run of each DAG and the emitted events.

    :param log: file of the events
    """
    from tests.integration.conftest import BUNDLE

    file = BUNDLE / f"lineage_{uuid.uuid4().hex}.py"
    file.write_text(textwrap.dedent(source))
    env = {
        **os.environ,
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "file", "log_file_path": str(log), "append": True}),
        "AIRFLOW__OPENLINEAGE__EXECUTION_TIMEOUT": "60",
        **{f"AIRFLOW_CONN_{name.upper()}": value for name, value in connections.items()},
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", RUNNER, str(file), str(BUNDLE)],
            env=env, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
    finally:
        file.unlink()
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert SECRET not in log.read_text()
    states = dict(re.findall(r"^ended: (\S+) (\S+)$", done.stdout, re.MULTILINE))
    return states, [json.loads(line) for line in log.read_text().splitlines()]


def write_flights(database: Path, rows: int = 600) -> None:
    random = np.random.default_rng(1)
    distance = random.normal(1000, 300, rows)
    delay = (distance - 1000) / 20 + 15 + random.normal(0, 10, rows)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE flights (flight INTEGER, time TEXT, origin TEXT, distance REAL, delay REAL)")
        for number in range(rows):
            connection.execute(
                "INSERT INTO flights VALUES (?, ?, ?, ?, ?)",
                (
                    number,
                    (START + timedelta(hours=number)).strftime("%Y-%m-%d %H:%M:%S"),
                    "EWR" if number % 2 else "JFK",
                    None if number < 3 else distance[number],
                    delay[number],
                ),
            )


@pytest.fixture(scope="module")
def emitted(airflow_db, mlflow_server, tmp_path_factory) -> tuple[dict[str, str], list[Event], dict[str, Any]]:
    """Run a DAG with every operator and three small DAGs in one process.

    Return the state of each DAG's run, the emitted events, and the names and paths that the large DAG uses.
    """
    folder = tmp_path_factory.mktemp("lifecycle")
    write_flights(folder / "flights.db")
    hours = [START + timedelta(hours=number) for number in range(600)]
    lines = [f"{hour:%Y-%m-%dT%H:%M:%SZ},{origin},{hour.hour}.5" for hour in hours for origin in ("EWR", "JFK")]
    (folder / "weather.csv").write_text("\n".join(["time,origin,wind", *lines]))
    repo = folder / "features"
    repo.mkdir()
    (repo / "feature_store.yaml").write_text(FEATURE_STORE)
    (repo / "definitions.py").write_text(FEATURES)
    used = {
        "model": f"delays_{uuid.uuid4().hex[:8]}",
        "store": f"file://{folder}/store",
        "files": f"file://{folder}/weather.csv",
        "repo": str(repo),
        "suite": SUITE,
    }
    connections = {
        "lineage_flights": json.dumps({"conn_type": "sqlite", "host": f"{folder}/flights.db"}),
        "mlflow_default": json.dumps(
            {"conn_type": "mlflow", "host": mlflow_server, "login": "alice", "password": SECRET}
        ),
    }
    small = tmp_path_factory.mktemp("small")
    (small / "rows.csv").write_text("flight,distance\n1,\n2,5\n")
    (small / "complete.csv").write_text("a\n1\n")
    source = (
        LIFECYCLE.format(**used)
        + FAILING.format(store=f"file://{small}/store", files=f"{small}/rows.csv", suite=SUITE)
        + FORGETFUL.format(folder=str(small), secret=SECRET)
    )
    states, events = run_emitting(source, folder / "events.json", connections)
    return states, events, {**used, "folder": str(folder), "mlflow": mlflow_server}


@pytest.fixture(scope="module")
def lifecycle(emitted) -> tuple[dict[str, Event], dict[str, Any]]:
    """Return the last event of each task of a DAG with every operator, and the configured names and paths."""
    states, events, used = emitted
    assert states["lifecycle"] == "success"
    named = [(event["job"]["name"].split("."), event) for event in events if event["eventType"] != "START"]
    return {name[-1]: event for name, event in named if name[0] == "lifecycle"}, used


def names(datasets: list[Event]) -> set[tuple[str, str]]:
    return {(dataset["namespace"], dataset["name"]) for dataset in datasets}


def one(datasets: list[Event], end: str) -> Event:
    """Return the only dataset with a name that ends with ``end``."""
    (found,) = [dataset for dataset in datasets if dataset["name"].endswith(end)]
    return found


def columns(dataset: Event) -> dict[str, str]:
    return {field["name"]: field["type"] for field in dataset["facets"]["schema"]["fields"]}


def test_every_operator_emits_its_inputs_and_outputs(lifecycle):
    events, used = lifecycle
    folder, store, model = used["folder"], f"{used['folder']}/store", used["model"]

    def stored(*keys: str) -> set[tuple[str, str]]:
        return {("file", f"{store}/{key}") for key in keys}

    def registered(*names: str) -> set[tuple[str, str]]:
        return {(used["mlflow"], f"models:/{model}{name}") for name in names}

    flights, valid = stored("datasets/flights"), stored("datasets/flights_valid")
    training, rows = stored("datasets/training"), stored("datasets/rows")
    predictions, outcomes = stored(f"datasets/{model}_predictions"), stored(f"datasets/{model}_outcomes")
    expected = {
        "flights": ({(f"sqlite://{folder}/flights.db", "main.flights")}, flights),
        "weather": ({("file", f"{folder}/weather.csv")}, stored("datasets/weather")),
        "valid": (flights, valid | stored("datasets/flights_quarantine")),
        "features": (stored("datasets/weather"), {("small", "weather")}),
        "data": (valid | {("small", "weather"), ("small", "known")}, training),
        "train": (training, registered("/1")),
        "evaluate": (training | registered("/1"), set()),
        "promote": (registered("/1"), registered("@champion")),
        "rollback": (registered("/1"), set()),
        "rows": (valid | {("small", "weather")}, rows),
        "score": (rows | registered("/1", "@champion"), predictions),
        "join": (predictions | valid, outcomes),
        "profile": (outcomes, set()),
        "monitor": (outcomes | registered("/1", "@champion"), stored(f"reports/{model}")),
    }
    found = {task: (names(events[task]["inputs"]), names(events[task]["outputs"])) for task in expected}
    assert found == expected


def test_the_lineage_graph_connects_the_sources_with_champion_predictions_and_report(lifecycle):
    events, used = lifecycle
    reached = {(f"sqlite://{used['folder']}/flights.db", "main.flights")}
    while True:
        after = {
            name for event in events.values() if names(event["inputs"]) & reached for name in names(event["outputs"])
        } - reached
        if not after:
            break
        reached |= after
    model = used["model"]
    assert (used["mlflow"], f"models:/{model}@champion") in reached
    assert ("file", f"{used['folder']}/store/datasets/{model}_predictions") in reached
    assert ("file", f"{used['folder']}/store/reports/{model}") in reached


def test_datasets_have_schema_owner_version_and_counts(lifecycle):
    events, _ = lifecycle
    (raw,) = events["flights"]["outputs"]
    assert columns(raw)["distance"] == "double"
    assert raw["facets"]["ownership"]["owners"] == [{"name": "data-team", "type": "OWNER"}]
    assert raw["facets"]["documentation"]["description"] == "What flew"
    assert raw["outputFacets"]["outputStatistics"]["rowCount"] == 600
    assert raw["outputFacets"]["outputStatistics"]["size"] > 1000
    version = raw["facets"]["version"]["datasetVersion"]
    assert len(version) == 64
    partitions = raw["outputFacets"]["subset"]["outputCondition"]["partitions"]
    assert partitions == [{"dimensions": {"window": "2013-04"}, "identifier": version}]
    assert events["flights"]["job"]["facets"]["sql"]["query"].startswith("SELECT * FROM flights WHERE time >= :start")
    # The next task reads this version.
    read = one(events["valid"]["inputs"], "/flights")
    assert read["facets"]["version"]["datasetVersion"] == version
    assert read["inputFacets"]["inputStatistics"]["rowCount"] == 600
    # Evaluation reads only the split part `test`. For a name with a window, the event has the version that was found.
    train, held_out = (one(events[task]["inputs"], "/training") for task in ("train", "evaluate"))
    assert held_out["inputFacets"]["inputStatistics"]["rowCount"] < train["inputFacets"]["inputStatistics"]["rowCount"]
    chosen, made = one(events["rows"]["inputs"], "_valid"), one(events["valid"]["outputs"], "_valid")
    assert chosen["facets"]["version"]["datasetVersion"] == made["facets"]["version"]["datasetVersion"]
    (file,) = events["weather"]["inputs"]
    assert file["inputFacets"]["inputStatistics"]["size"] > 1000
    assert columns(one(events["features"]["outputs"], "weather")) == {"wind": "Float64"}


def test_expectations_and_gates_are_assertions(lifecycle):
    events, _ = lifecycle
    (read,) = events["valid"]["inputs"]
    failed, met = read["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert (failed["assertion"], failed["column"]) == ("expect_column_values_to_not_be_null", "distance")
    assert (failed["success"], failed["params"], failed["severity"]) == (False, {"unexpected": 3}, "warn")
    assert met["success"]
    candidate = one(events["evaluate"]["inputs"], "/1")
    gate, champion, baselines = candidate["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert gate["assertion"] == "roc_auc at least 0.6"
    assert "champion" in champion["assertion"]
    assert baselines["assertion"] == "roc_auc better than a simple model"
    assert gate["success"]
    assert float(gate["actual"]) == candidate["inputFacets"]["mlops_measured"]["metrics"]["roc_auc"]


def test_models_have_metrics_signature_and_the_id_of_their_training_set(lifecycle):
    events, used = lifecycle
    (model,) = events["train"]["outputs"]
    facet = model["facets"]["mlops_model"]
    (training,) = events["data"]["outputs"]
    assert facet["trainingSet"] == training["facets"]["version"]["datasetVersion"]
    assert 0.6 < facet["metrics"]["roc_auc"] < 1
    assert facet["trainer"] == "LogisticRegression"
    assert facet["runUrl"].startswith(used["mlflow"])
    assert columns(model) == {"distance": "double", "wind": "double"}
    assert model["facets"]["datasetType"]["datasetType"] == "MODEL"
    (champion,) = events["promote"]["outputs"]
    assert champion["facets"]["version"]["datasetVersion"] == "1"
    assert champion["facets"]["mlops_model"]["trainingSet"] == facet["trainingSet"]
    verdicts = {
        task: events[task]["run"]["facets"]["mlops_verdict"] for task in ("evaluate", "promote", "rollback", "monitor")
    }
    assert {task: verdict["verdict"] for task, verdict in verdicts.items()} == {
        "evaluate": "accepted", "promote": "promoted", "rollback": "unchanged", "monitor": "healthy",
    }  # fmt: skip
    assert verdicts["monitor"]["metrics"]["labelled"] == 597
    assert all(verdict["model"] == used["model"] and verdict["version"] == 1 for verdict in verdicts.values())


def test_the_resources_of_each_task_are_in_its_event_and_with_the_version(lifecycle):
    events, context = lifecycle
    used = {task: found for task, event in events.items() if (found := event["run"]["facets"].get("mlops_usage"))}
    assert set(events) - set(used) == {"lifecycle"}
    assert used["flights"]["rows"] == used["valid"]["rows"] == 600
    assert used["flights"]["writtenBytes"] > 1000
    assert used["score"]["readBytes"] > 1000
    assert all(
        usage["seconds"] > 0 and usage["cpuSeconds"] >= 0 and usage["peakMemoryMb"] > 50 for usage in used.values()
    )
    run_id = events["train"]["outputs"][0]["facets"]["mlops_model"]["runId"]
    tags = mlflow.MlflowClient(context["mlflow"], context["mlflow"]).get_run(run_id).data.tags
    assert {int(tags[f"mlops.usage.{step}.rows"]) for step in ("train", "evaluate")} == {
        used["train"]["rows"],
        used["evaluate"]["rows"],
    }
    assert float(tags["mlops.usage.train.seconds"]) == used["train"]["seconds"]


def test_custom_facets_are_valid_against_their_json_schemas(lifecycle):
    events, _ = lifecycle
    seen = set()
    for event in events.values():
        owners = [event["run"], *event.get("inputs", ()), *event.get("outputs", ())]
        for facets in (owner.get(kind, {}) for owner in owners for kind in ("facets", "inputFacets", "outputFacets")):
            for name, facet in facets.items():
                if name.startswith("mlops_"):
                    seen.add(name)
                    schema = json.loads((SCHEMAS / f"{facet['_schemaURL'].rpartition(':')[2]}.json").read_text())
                    assert schema["$id"] == facet["_schemaURL"]
                    jsonschema.validate(facet, schema)
    assert seen == {"mlops_model", "mlops_measured", "mlops_verdict", "mlops_usage"}


def test_a_failed_validation_emits_its_expectations_as_assertions(emitted):
    states, events, _ = emitted
    assert states["failing"] == "failed"
    (event,) = [event for event in events if event["eventType"] == "FAIL" and event["job"]["name"] == "failing.valid"]
    (read,) = event["inputs"]
    assertions = read["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert [(found["column"], found["success"]) for found in assertions] == [("distance", False), ("flight", True)]
    assert assertions[0]["severity"] == "error"
    assert event["outputs"] == []


def test_a_task_succeeds_if_its_lineage_cannot_be_determined(emitted):
    states, events, _ = emitted
    assert states["forgetful"] == "success"
    (event,) = [event for event in events if event["job"]["name"] == "forgetful.rows" and event["eventType"] != "START"]
    assert event["eventType"] == "COMPLETE"
    assert not event["outputs"]


def test_credentials_in_a_url_are_not_emitted(emitted):
    # The fixture that runs the DAGs checks that no event contains the secret.
    states, events, _ = emitted
    assert states["remote"] == "failed"
    (event,) = [event for event in events if event["eventType"] == "FAIL" and event["job"]["name"] == "remote.rows"]
    assert names(event["inputs"]) == {("https://127.0.0.1:1", "rows.csv")}


def test_tables_have_the_names_that_the_provider_of_the_database_gives_them(monkeypatch):
    from airflow_mlops.lineage.sources import query
    from airflow_mlops.stages.ingest.spec import IngestSpec

    spec = IngestSpec(
        name="orders", window="2013-04", conn_id="lineage_shop",
        sql="SELECT o.id, o.at::date FROM orders o JOIN crm.people p ON p.id = o.person WHERE at >= :start AND at < :end",
    )  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_LINEAGE_SHOP", f"postgres://alice:{SECRET}@127.0.0.1/shop")
    found = query(spec.conn_id, spec.sql)
    assert {(table.namespace, table.name) for table in found.inputs} == {
        ("postgres://127.0.0.1:5432", "shop.public.orders"),
        ("postgres://127.0.0.1:5432", "shop.crm.people"),
    }
    assert SECRET not in repr(found)
    # First a database whose provider is not installed, then a connection that is defined only in a pod.
    monkeypatch.setenv("AIRFLOW_CONN_LINEAGE_SHOP", f"duck://alice:{SECRET}@db.example:99/shop")
    found = query(spec.conn_id, "SELECT * FROM sales.orders")
    assert [(table.namespace, table.name) for table in found.inputs] == [("duck://db.example:99", "shop.sales.orders")]
    monkeypatch.delenv("AIRFLOW_CONN_LINEAGE_SHOP")
    found = query(spec.conn_id, "SELECT * FROM sales.orders")
    assert [(table.namespace, table.name) for table in found.inputs] == [
        ("airflow-connection://lineage_shop", "sales.orders")
    ]


def test_a_transfer_reads_one_registry_and_writes_another(monkeypatch, tmp_path):
    from airflow_mlops.lineage import lineage_of

    for name in ("staging", "production"):
        host = f"http://alice:{SECRET}@{name}:5000/"
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "mlflow", "host": host}))
    spec = {"model": "delays", "target_conn_id": "production", "mlflow": {"conn_id": "staging"}}
    call = StepCall(step="transfer", spec=spec, store=f"file://{tmp_path}", key="results/x.json", version="0")
    versions = [{"model": "delays", "version": number, "run_id": f"r{number}"} for number in (7, 1)]
    result = {
        "transferred": True, "model": "delays", "source": versions[0], "candidate": versions[1],
        "registry": "http://production:5000", "ledger_url": "file:///1.json", "summary": "Copied.",
    }  # fmt: skip
    found = lineage_of(call, result)
    (read,), (written,) = found.inputs, found.outputs
    assert (read.namespace, read.name) == ("http://staging:5000", "models:/delays/7")
    assert (written.namespace, written.name) == ("http://production:5000", "models:/delays/1")
    assert not lineage_of(call, {**result, "transferred": False}).outputs
    assert SECRET not in repr(found)


def test_a_validation_in_a_database_reads_its_tables(monkeypatch, tmp_path):
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.lineage import lineage_of
    from airflow_mlops.stages.validate.outcomes import write_outcomes
    from airflow_mlops.stages.validate.spec import ExpectationOutcome

    monkeypatch.setenv("AIRFLOW_CONN_LINEAGE_SHOP", f"postgres://alice:{SECRET}@127.0.0.1/shop")
    store = ArtifactStore(f"file://{tmp_path}/store")
    write_outcomes(
        store,
        "results/x.json",
        [
            ExpectationOutcome(expectation="expect_x(id)", success=False, unexpected=2, severity=severity)
            for severity in ("critical", "warning", "info")
        ],
    )

    def lineage(**given):
        spec = {"conn_id": "lineage_shop", "suite": SUITE, **given}
        return lineage_of(
            StepCall(step="validate", spec=spec, store=store.url, key="results/x.json", version="0"), None
        )

    found = lineage(table="sales.Orders")
    (table,) = found.inputs
    assert (table.namespace, table.name) == ("postgres://127.0.0.1:5432", "shop.sales.Orders")
    assertions = table.inputFacets["dataQualityAssertions"].assertions
    assert [assertion.severity for assertion in assertions] == ["error", "warn", "info"]
    assert {(assertion.success, assertion.column) for assertion in assertions} == {(False, "id")}
    joined = lineage(sql="SELECT * FROM orders JOIN customers USING (id)", name="orders")
    assert {table.name for table in joined.inputs} == {"shop.public.orders", "shop.public.customers"}
    assert "dataQualityAssertions" not in repr(joined)
    assert SECRET not in repr((found, joined))


def test_a_table_of_predictions_has_the_name_that_ingestion_gives_it(monkeypatch):
    from airflow_mlops.core.references import TableTarget
    from airflow_mlops.lineage.sources import table

    def named(name):
        (found,) = table(TableTarget(conn_id="lineage_bi", table=name))
        assert SECRET not in repr(found)
        return found.namespace, found.name

    monkeypatch.setenv("AIRFLOW_CONN_LINEAGE_BI", f"postgres://alice:{SECRET}@127.0.0.1/shop")
    assert named("predictions") == ("postgres://127.0.0.1:5432", "shop.public.predictions")
    assert named("crm.my table") == ("postgres://127.0.0.1:5432", "shop.crm.my table")
    monkeypatch.delenv("AIRFLOW_CONN_LINEAGE_BI")
    assert named("crm.predictions") == ("airflow-connection://lineage_bi", "crm.predictions")


def test_a_delta_table_of_predictions_has_the_name_of_its_folder():
    from airflow_mlops.core.references import DeltaTarget
    from airflow_mlops.lineage.sources import table

    for url, name in {
        "s3a://lake/bi/predictions": ("s3://lake", "bi/predictions"), "/data/predictions": ("file", "/data/predictions")
    }.items():  # fmt: skip
        (found,) = table(DeltaTarget(delta=url))
        assert (found.namespace, found.name) == name


def test_a_rollback_emits_the_new_champion(monkeypatch, tmp_path):
    from airflow_mlops.lineage import lineage_of

    monkeypatch.setenv(
        "AIRFLOW_CONN_MLFLOW_DEFAULT",
        json.dumps({"conn_type": "mlflow", "host": f"http://alice:{SECRET}@mlflow:5000/"}),
    )
    spec = {"model": "delays", "reason": "complaints", "to_version": 1}
    call = StepCall(step="rollback", spec=spec, store=f"file://{tmp_path}", key="results/x.json", version="0")
    versions = [{"model": "delays", "version": number, "run_id": f"r{number}"} for number in (1, 2)]
    result = {
        "rolled_back": True, "model": "delays", "champion": versions[0], "replaced": versions[1],
        "reason": "complaints", "summary": "Rolled back.",
    }  # fmt: skip
    found = lineage_of(call, result)
    (read,), (moved,) = found.inputs, found.outputs
    assert (read.namespace, read.name) == ("http://mlflow:5000", "models:/delays/1")
    assert (moved.namespace, moved.name) == ("http://mlflow:5000", "models:/delays@champion")
    assert moved.facets["version"].datasetVersion == "1"
    assert found.run_facets["mlops_verdict"].verdict == "rolled_back"
    assert SECRET not in repr(found)


def test_a_canary_reads_both_groups_and_moves_the_champion_only_at_the_end(monkeypatch, tmp_path):
    from airflow_mlops.lineage import lineage_of

    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": "http://mlflow:5000"}))
    canary, champion = ({"model": "m", "version": number, "run_id": f"r{number}"} for number in (2, 1))
    spec = {"model": "m", "version": "challenger"}
    call = StepCall(step="canary", spec=spec, store=f"file://{tmp_path}", key="results/x.json", version="0")
    for state, now in (("widened", champion), ("promoted", canary)):
        result = {"model": "m", "state": state, "version": canary, "champion": now, "promoted": now is canary, "reason": "It is.",
                  "summary": "Done."}  # fmt: skip
        found = lineage_of(call, result)
        names = [item.name.rpartition("/")[2] for item in found.inputs]
        assert names == ["m_outcomes", "m_canary_outcomes", "2"]
        assert [item.name for item in found.outputs] == (["models:/m@champion"] if now is canary else [])
        assert found.run_facets["mlops_verdict"].verdict == state


def test_shadow_scoring_reads_its_version_and_an_evaluation_its_evidence(monkeypatch, tmp_path):
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.lineage import lineage_of
    from tests.support.deployed import flights, write

    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": "http://mlflow:5000"}))
    store = ArtifactStore(f"file://{tmp_path}/store")
    _, shadow, acted_on = (write(store, name, flights(3)) for name in ("rows", "m_shadow_outcomes", "m_outcomes"))
    version = {"model": "m", "version": 2, "run_id": "r2"}

    def lineage(step, spec, result):
        return lineage_of(StepCall(step=step, spec=spec, store=store.url, key="results/x.json", version="0"), result)

    scored = {"dataset": shadow.model_dump(mode="json"), "scored_by": version, "summary": "Scored."}
    for fields, alias in (
        ({"alias": "challenger"}, {"models:/m@challenger"}),
        ({"version": 2}, set()),
        ({}, {"models:/m@champion"}),
    ):
        found = lineage("score", {"model": "m", "dataset": {"name": "rows"}, **fields}, scored)
        models = {item.name for item in found.inputs if item.name.startswith("models:/")}
        assert models == {"models:/m/2"} | alias
        assert any(item.name.endswith("datasets/rows") for item in found.inputs)
    evidence = write(store, "m_evidence", flights(3))
    spec = {"candidates": [version], "evidence": [item.model_dump(mode="json") for item in (shadow, acted_on)]}
    verdict = {
        "model": "m", "dataset_name": "m_evidence", "dataset_id": evidence.id, "part": "data", "metric": "roc_auc", "winner": None,
        "champion": None, "reason": "None passed.",
        "candidates": [{"candidate": version, "metrics": {}, "gates": [], "passed": False}],
    }  # fmt: skip
    for result in (None, {"verdict": verdict, "run_id": "r2", "reports": [], "summary": "Evaluated."}):
        found = lineage("evaluate", spec, result)
        read = {item.name.rpartition("/")[2] for item in found.inputs if "/datasets/" in item.name}
        assert read == {"m_shadow_outcomes", "m_outcomes"}
        assert [item.name.rpartition("/")[2] for item in found.outputs] == (["m_evidence"] if result else [])
