"""Features of requests come from Feast's online store, and are those that the point-in-time join finds for the same moment."""

from __future__ import annotations

import io
import json
import shutil
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import requests
import yaml
from mlflow import MlflowClient

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.errors import FeatureMismatchError, FeatureStoreError, SchemaError, SpecError
from airflow_mlops.data.datasets import Dataset, DatasetWriter, open_dataset, read_manifests
from airflow_mlops.data.feast import join as feast_join
from airflow_mlops.data.feast import online, request
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.serving.log.merge import merge
from airflow_mlops.serving.log.spool import _parquet
from airflow_mlops.serving.rows.online_features import OnlineFeatures
from airflow_mlops.serving.rows.request import InputColumns
from airflow_mlops.stages.compare_features import step as compare_features
from airflow_mlops.stages.compare_features.spec import CompareFeaturesSpec
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.stages.training_set.step import run
from tests.integration.conftest import free_port
from tests.support import redis
from tests.support.candidates import linear
from tests.support.endpoint import answering, register
from tests.support.feature_repo import FEATURE_STORE

DEFINITIONS = """
from datetime import timedelta
import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float32, Float64, Int64, String

place = Entity(name="place", join_keys=["place"], value_type=ValueType.STRING)
pair = Entity(name="pair", join_keys=["number"], value_type=ValueType.INT64)
rows = FileSource(name="rows", path="rows.parquet", timestamp_field="at")
keys = [Field(name="place", dtype=String), Field(name="number", dtype=Int64)]
fresh = FeatureView(name="fresh", entities=[place, pair], ttl=timedelta(days=90), source=rows,
                    schema=[*keys, Field(name="count", dtype=Int64), Field(name="share", dtype=Float32)])
lasting = FeatureView(name="lasting", entities=[place, pair], source=rows,
                      schema=[*keys, Field(name="size", dtype=Float64), Field(name="open", dtype=Bool)])
words = FeatureView(name="words", entities=[place], source=FileSource(name="w", path="words.parquet", timestamp_field="at"),
                    schema=[keys[0], Field(name="word", dtype=String)])
asked = RequestSource(name="asked", schema=[Field(name="factor", dtype=Int64)])

@on_demand_feature_view(sources=[fresh, asked], schema=[Field(name="scaled", dtype=Float64)])
def computed(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"scaled": inputs["count"] * inputs["factor"] * 1.5})

everything = FeatureService(name="everything", features=[
    fresh, lasting, computed,
    words.with_name("origin").with_join_key_map({"place": "from"}), words.with_name("goal").with_join_key_map({"place": "to"}),
])
numbers = FeatureService(name="numbers", features=[fresh[["count"]], lasting, computed])
"""
NOW = datetime.now(timezone.utc).replace(microsecond=0)
PLACES = ["EWR", "JFK", "LGA", "Zürich"]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with rows of the last 180 days, materialized.

    Days, because the server looks up at its own time: minutes would become too old while the tests run.
    """
    folder, random = tmp_path_factory.mktemp("online_features"), np.random.default_rng(0)
    (folder / "feature_store.yaml").write_text(FEATURE_STORE)
    (folder / "definitions.py").write_text(textwrap.dedent(DEFINITIONS))
    many = 120
    # The last rows are in the future. Neither join may use them.
    at = [NOW - timedelta(days=int(days)) for days in random.permutation(np.linspace(-20, 180, many))]
    gaps = {name: random.random(many) < 0.2 for name in ("count", "share", "size", "open")}
    values = {
        "count": random.integers(-5, 5, many), "share": random.random(many).astype(np.float32),
        "size": random.normal(size=many), "open": random.random(many) < 0.5,
    }  # fmt: skip
    table = {
        "place": pa.array(random.choice(PLACES, many)), "number": pa.array(random.integers(0, 12, many)),
        "at": pa.array(at, pa.timestamp("us", "UTC")),
        **{name: pa.array(column, mask=gaps[name]) for name, column in values.items()},
    }  # fmt: skip
    pq.write_table(pa.table(table), folder / "rows.parquet")
    words = {
        "place": PLACES[:3],
        "at": pa.array([NOW - timedelta(days=9)] * 3, pa.timestamp("us", "UTC")),
        "word": ["", "b", "ü"],
    }
    pq.write_table(pa.table(words), folder / "words.parquet")
    store = feast_repo.open_store(str(folder))
    feast_repo.apply(store, feast_repo.parse_repo(store))
    with feast_repo.quietly():
        store.materialize(NOW - timedelta(days=200), NOW)
    return folder


def entities(rows: int = 300, seed: int = 1) -> pa.Table:
    """Entities that exist, that do not, and that are null."""
    random = np.random.default_rng(seed)
    known = [*PLACES, "nowhere", None]
    columns = {
        name: pa.array([known[code] for code in random.integers(0, 6, rows)], pa.string())
        for name in ("place", "from", "to")
    }
    number = pa.array(random.integers(0, 13, rows), mask=random.random(rows) < 0.1)
    return pa.table({**columns, "number": number, "factor": random.integers(1, 4, rows)})


@pytest.fixture(params=["sqlite", "redis"])
def online_repo(request: pytest.FixtureRequest, repo: Path, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """The repository with its online store in SQLite, and in a real Redis."""
    if request.param == "sqlite":
        yield SimpleNamespace(folder=repo)
        return
    with redis.server() as server:
        settings = yaml.safe_load((repo / "feature_store.yaml").read_text())
        settings["online_store"] = {"type": "redis", "connection_string": server.address}
        for name in ("definitions.py", "rows.parquet", "words.parquet"):
            shutil.copy(repo / name, tmp_path)
        (tmp_path / "feature_store.yaml").write_text(yaml.safe_dump(settings))
        store = feast_repo.open_store(str(tmp_path))
        feast_repo.apply(store, feast_repo.parse_repo(store))
        with feast_repo.quietly():
            store.materialize(NOW - timedelta(days=200), NOW)
        yield SimpleNamespace(folder=tmp_path, server=server)


def test_the_online_lookup_finds_what_the_point_in_time_join_finds(online_repo):
    store, asked = feast_repo.open_store(str(online_repo.folder)), entities()
    wanted = request.resolve(store, "everything", None)
    events = asked.append_column("time", pa.array([NOW] * asked.num_rows, pa.timestamp("us", "UTC")))
    offline = pa.concat_tables(feast_join.join(store, wanted, events, "time")).combine_chunks()
    found = online.look_up(store, wanted, asked, NOW).combine_chunks()
    assert found.schema == offline.schema
    for ref in wanted.refs:
        assert found[ref].equals(offline[ref]), ref
        # The comparison covers null and other values.
        assert 0 < found[ref].null_count < len(found[ref]), ref
    # A month later, more values are older than the time to live.
    later = online.look_up(store, wanted, asked, NOW + timedelta(days=30))
    assert later["fresh:count"].null_count > found["fresh:count"].null_count
    assert later["lasting:size"].equals(found["lasting:size"])
    if hasattr(online_repo, "server"):
        online_repo.server.stop()
        with pytest.raises(FeatureStoreError, match="(?i)connect") as refused:
            online.look_up(store, wanted, asked, NOW)
        assert "s3cret" not in str(refused.value)


def test_an_online_store_that_cannot_be_read_is_an_error_of_the_feature_store(repo, monkeypatch):
    store = feast_repo.open_store(str(repo))

    def away(**arguments: object) -> None:
        raise ConnectionError("Connection refused.")

    monkeypatch.setattr(store, "get_online_features", away)
    with pytest.raises(FeatureStoreError, match="Connection refused"):
        online.look_up(store, request.resolve(store, "numbers", None), entities(5), NOW)


@pytest.fixture(scope="module")
def served(repo: Path, mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A server of a model whose training set was built with a feature service, and the rows that were joined."""
    folder = tmp_path_factory.mktemp("served")
    store = ArtifactStore((folder / "store").as_uri())
    # Each number occurs with one or two values of `place`.
    asked = entities(200, seed=2).drop_columns(["from", "to"])
    asked = asked.append_column("weight", pa.array(np.random.default_rng(0).normal(size=asked.num_rows)))
    events = asked.append_column("time", pa.array([NOW] * asked.num_rows, pa.timestamp("us", "UTC")))
    with DatasetWriter(store, "events") as writer:
        writer.write(events)
        writer.commit()
    spec = TrainingSetSpec(
        name="numbers", entities={"name": "events"}, timestamp="time", columns=["weight", "factor"], repo=str(repo),
        feature_service="numbers", label=None, split=None,
    )  # fmt: skip
    dataset = open_dataset(store, run(spec, StepContext(store=store)).dataset)
    features = dataset.manifest.details["features"]
    assert set(features) == {"weight", "factor", "count", "size", "open", "scaled"}
    contract = ModelContract(
        task="binary", label="late", features=[FeatureColumn(name=name, kind="number") for name in features],
        classes=[False, True], positive=True, dataset_name="numbers", dataset_id=dataset.manifest.id, timestamp="time",
    )  # fmt: skip
    model, port = f"online_{uuid.uuid4().hex[:8]}", free_port()
    exported = linear("binary", features, np.linspace(0.1, 0.9, len(features)))
    register(MlflowClient(mlflow_server, mlflow_server), folder / "files", model, contract, exported)
    command = [
        "-m",
        "airflow_mlops.serving",
        model,
        "--store",
        store.url,
        "--port",
        str(port),
        "--feast-repo",
        str(repo),
    ]
    with answering([*command, "--spool", str(folder / "spool")], port, model, mlflow_server) as server:
        server.joined, server.features, server.folder, server.model = dataset.table(), features, folder, model
        server.contract, server.manifest = contract, dataset.manifest
        yield server


def ask(server: SimpleNamespace, **body: object) -> requests.Response:
    return requests.post(server.predict, json=body, timeout=30)


def logged(server: SimpleNamespace, request_id: str) -> list[dict[str, object]]:
    """The logged rows of a request, from the spool or from the store."""
    for _ in range(100):
        files = [*(server.folder / "spool").glob("*.arrows"), *(server.folder / "store" / "online").rglob("*.parquet")]
        for path in files:
            with suppress(FileNotFoundError), path.open("rb") as file:
                content = file.read() if path.suffix == ".parquet" else _parquet(file)[0]
                rows = pq.read_table(io.BytesIO(content)).to_pylist() if content else []
                if found := [row for row in rows if row["request_id"] == request_id]:
                    return found
        time.sleep(0.1)
    pytest.fail("The request was not logged.")


def test_entities_are_scored_like_the_joined_rows_and_logged_with_their_features(served):
    rows = served.joined.to_pylist()
    given = ("place", "number", "factor", "weight")
    answer = ask(served, id="looked-up", entities=[{name: row[name] for name in given} for row in rows])
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    by_rows = [{name: row[name] for name in served.features} for row in rows]
    expected = ask(served, rows=by_rows).json()["predictions"]
    nulls = [[name for name in ("count", "size", "open", "scaled") if row[name] is None] for row in rows]
    assert {0, 4} < {len(names) for names in nulls}
    # A value may have become too old since the rows were joined.
    same = [number for number, names in enumerate(nulls) if found[number]["missing"] == names]
    assert len(same) > 0.9 * len(rows)
    assert [found[number]["score"] for number in same] == [expected[number]["score"] for number in same]
    written = logged(served, "looked-up")
    assert [(row["place"], row["number"]) for row in written] == [(row["place"], row["number"]) for row in rows]
    for number in same:
        assert {name: written[number][name] for name in served.features} == by_rows[number]


@pytest.mark.parametrize(
    ("entity", "named"),
    [
        ({"place": "EWR", "number": 1, "factor": 2}, "weight"),
        ({"place": "EWR", "factor": 2, "weight": 1}, "number"),
        ({"place": "EWR", "number": "1", "factor": 2, "weight": 1}, "number"),
        ({"place": "EWR", "number": 1, "factor": 2, "weight": "1"}, "weight"),
        ({"place": "EWR", "number": 1, "factor": 2, "weight": 1, "count": 5}, "count"),
        ({"place": "EWR", "number": 1, "factor": 2, "weight": 1, "cuont": 5}, "cuont"),
        (7, "Entity 1"),
    ],
)
def test_a_wrong_entity_is_refused_by_name(served, entity, named):
    answer = ask(served, entities=[entity])
    assert (answer.status_code, named in answer.json()["error"]) == (422, True), answer.text


def test_a_request_has_rows_or_entities(served):
    assert ask(served, rows=[], entities=[]).status_code == 422
    assert ask(served, entities={}).status_code == 422
    assert ask(served, entities=[]).json()["predictions"] == []


def test_a_feature_that_was_removed_from_feast_is_named(served, repo):
    details = {**served.manifest.details, "feature_refs": ["fresh:count", "fresh:gone"]}
    columns = [*served.manifest.columns, served.manifest.columns[0].model_copy(update={"name": "gone"})]
    manifest = served.manifest.model_copy(update={"details": details, "columns": columns})
    features = [*served.contract.features, FeatureColumn(name="gone", kind="number")]
    contract = served.contract.model_copy(update={"features": features})
    with pytest.raises(FeatureStoreError, match="'fresh:gone'"):
        OnlineFeatures(str(repo)).lookup(contract, InputColumns(contract), manifest)
    assert OnlineFeatures("/nowhere").lookup(contract, InputColumns(contract), None) is None


@pytest.fixture(scope="module")
def compare(served: SimpleNamespace, mlflow_server: str) -> Callable[..., Any]:
    """A function that compares the log of the server with a repository."""
    store, model = ArtifactStore((served.folder / "store").as_uri()), served.model
    name = f"{model}_predictions"
    rows = served.joined.select(["place", "number", "factor", "weight"]).to_pylist()
    assert ask(served, id="compared", entities=rows).status_code == 200
    deadline = time.monotonic() + 60
    while not any(
        "compared" in dataset.table()["request_id"].to_pylist() for dataset in PredictionLog(store, model).present()
    ):
        assert time.monotonic() < deadline, "The request is not in the log."
        time.sleep(0.2)
        merge(store, model, name, datetime.now(timezone.utc) + timedelta(days=2))
    connection = ConnectionInfo(conn_id="mlflow_default", conn_type="mlflow", host=mlflow_server)

    def compared(folder: Path, **fields: Any) -> SimpleNamespace:
        spec = CompareFeaturesSpec(**{"model": model, "dataset": {"name": name}, "repo": str(folder), **fields})
        try:
            found = compare_features.run(spec, StepContext(store=store, connection=lambda _: connection))
        except FeatureMismatchError as error:
            found = error
        written = read_manifests(store, f"{model}_feature_differences")
        newest = Dataset(store, max(written, key=lambda manifest: manifest.created))
        return SimpleNamespace(result=found, differences=newest.table().to_pylist())

    return compared


@pytest.fixture
def copied(repo: Path, tmp_path: Path) -> Path:
    """A copy of the repository with the same online store."""
    folder = tmp_path / "copied"
    shutil.copytree(repo, folder)
    return folder


def test_looked_up_features_equal_the_join_for_the_time_of_the_answer(compare, served, repo):
    found = compare(repo)
    # The rows without keys belong to requests with `rows`.
    assert (found.result.equal, set(found.result.features.values()), found.differences) == (1.0, {0}, [])
    assert set(found.result.features) == {"count", "size", "open", "scaled"}
    assert found.result.rows >= found.result.compared >= 150
    # The online store has values that are too old, and the comparison covers them.
    source = pq.read_table(repo / "rows.parquet").to_pylist()
    seen = [row for row in source if row["at"] <= NOW]
    newest = {(row["place"], row["number"]): row for row in sorted(seen, key=lambda row: row["at"])}
    old = {key for key, row in newest.items() if row["at"] < NOW - timedelta(days=91) and row["count"] is not None}
    asked = [(row["place"], row["number"]) for row in logged(served, "compared")]
    assert len(old & set(asked)) > 3


DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import CompareFeaturesOperator

with DAG("compare_{model}", default_args={{"model": "{model}", "dataset": {{"name": "{{{{ dag_run.conf['name'] }}}}"}}}}):
    CompareFeaturesOperator(task_id="same", repo="{same}") >> CompareFeaturesOperator(
        task_id="stale", repo="{stale}", min_equal="{{{{ 1 - 0.01 }}}}", retries=3
    )
"""


def test_a_dag_compares_the_features_and_fails_without_a_retry_if_they_differ(
    compare, served, repo, copied, run_dag, mlflow_connection, monkeypatch
):
    monkeypatch.setenv("AIRFLOW__MLOPS__ARTIFACTS", (served.folder / "store").as_uri())
    source = pq.read_table(copied / "rows.parquet")
    later = source.set_column(source.schema.get_field_index("count"), "count", pc.add(source["count"], 1))
    pq.write_table(later, copied / "rows.parquet")
    model, name = served.model, f"{served.model}_predictions"
    store = ArtifactStore((served.folder / "store").as_uri())
    before = {manifest.id for manifest in read_manifests(store, f"{model}_feature_differences")}
    done = run_dag(DAG.format(model=model, same=repo, stale=copied), {"name": name})
    assert done.states() == {"same": "success", "stale": "failed"}
    found, expected = done.xcom("same"), compare(repo).result
    assert (found["equal"], found["compared"], found["features"]) == (1.0, expected.compared, expected.features)
    assert found["differences"]["id"] == expected.differences.id
    # The task that failed has written its differences.
    written = [item for item in read_manifests(store, f"{model}_feature_differences") if item.id not in before]
    assert len([manifest for manifest in written if manifest.rows]) == 1


def test_a_stale_online_store_is_found_and_each_unequal_row_is_named(compare, served, copied):
    asked = logged(served, "compared")
    # Rows that reached the source before the answers, but not the online store.
    keys = [(row["place"], row["number"]) for row in asked if row["place"] and row["number"] is not None]
    late = list(dict.fromkeys(keys))[:3]
    source = pq.read_table(copied / "rows.parquet")
    added = pa.table(
        {
            "place": [place for place, _ in late], "number": [number for _, number in late],
            "at": pa.array([NOW] * 3, pa.timestamp("us", "UTC")), "count": [77] * 3,
            "share": pa.array([0.5] * 3, pa.float32()), "size": [7.5, None, float("nan")], "open": [True] * 3,
        },
        schema=source.schema,
    )  # fmt: skip
    pq.write_table(pa.concat_tables([source, added]), copied / "rows.parquet")
    found = compare(copied)
    assert isinstance(found.result, FeatureMismatchError)
    rows = [row for row in found.differences if row["request_id"] == "compared"]
    counts = {row["request_row"]: row for row in rows if row["feature"] == "count"}
    assert set(counts) == {row["request_row"] for row in asked if (row["place"], row["number"]) in late}
    for number, row in counts.items():
        was = asked[number]["count"]
        assert (row["online"], row["offline"]) == (None if was is None else str(was), "77")
        assert json.loads(row["entity"]) == {name: asked[number][name] for name in ("place", "number", "factor")}
        assert abs(row["scored_at"] - asked[number]["scored_at"]) < timedelta(seconds=1)
    # Missing values are equal, whether they are null or NaN.
    assert {row["request_row"] for row in rows if row["feature"] == "size"} == {
        place
        for place, row in enumerate(asked)
        if (key := (row["place"], row["number"])) in late and (key == late[0] or row["size"] is not None)
    }
    accepted = compare(copied, min_equal=0.1).result
    assert accepted.features["count"] == len([row for row in found.differences if row["feature"] == "count"])
    assert accepted.differences.rows == len(found.differences)
    unequal = {(row["request_id"], row["request_row"]) for row in found.differences}
    assert accepted.equal == 1 - len(unequal) / accepted.compared


def test_another_time_to_live_is_found(compare, copied):
    definitions = (copied / "definitions.py").read_text()
    (copied / "definitions.py").write_text(definitions.replace("ttl=timedelta(days=90)", "ttl=timedelta(days=400)"))
    store = feast_repo.open_store(str(copied))
    feast_repo.apply(store, feast_repo.parse_repo(store))
    found = compare(copied, min_equal=0)
    assert {row["feature"] for row in found.differences} == {"count", "scaled"}
    assert {row["online"] for row in found.differences} == {None}
    assert found.result.features["size"] == 0


def test_a_log_that_cannot_be_compared_is_refused(compare, copied, served):
    store = ArtifactStore((served.folder / "store").as_uri())
    (dataset, *_) = PredictionLog(store, served.model).present()
    for change, expected in (
        (lambda table, details: (table, {**details, "hashed": ["place"]}), SchemaError),
        (lambda table, details: (table.drop_columns(["number"]), {**details, "dropped": ["number"]}), SchemaError),
        (lambda table, details: (table.drop_columns(["request_row"]), details), SpecError),
        (lambda table, details: (table, {**details, "model": "other"}), SpecError),
    ):
        table, details = change(dataset.table(), dataset.manifest.details)
        with DatasetWriter(store, "changed") as writer:
            writer.write(table)
            ref = writer.commit(details=details)[0].ref
        with pytest.raises(expected):
            compare(copied, dataset=ref)
