"""The steps give the same results in the worker, in another Python and in a pod."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest

PLACES = ("worker", "process", "pod")

FEATURES = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource
from feast.types import Float64

shop = Entity(name="shop", join_keys=["shop"])
weather = FeatureView(
    name="weather",
    entities=[shop],
    ttl=timedelta(days=400),
    schema=[Field(name="rain", dtype=Float64)],
    source=FileSource(path="weather.parquet", timestamp_field="time"),
)
everything = FeatureService(name="everything", features=[weather])
"""

DAG = """
import sys
from datetime import timedelta
from airflow.sdk import DAG
from airflow_mlops.compute import Pod, Process, Worker
from airflow_mlops.operators import *
from airflow_mlops.trainers import SklearnTrainer, TorchTrainer

with DAG("contract", default_args={{"run_on": {place}, "store": "file://{root}/store", "model": "{model}"}}):
    rows = IngestOperator(task_id="ingest", name="days", files="{root}/days.csv", time_column="time", window="2024")
    valid = ValidateOperator(
        task_id="validate",
        dataset=rows.output,
        on_failure="quarantine",
        suite={{
            "name": "days",
            "expectations": [
                {{"type": "expect_column_values_to_be_between", "kwargs": {{"column": "price", "min_value": 0}}}}
            ],
        }},
    )
    features = MaterializeFeaturesOperator(task_id="features", repo="{root}/repo", window="2024-01", chunk="31D")
    data = BuildTrainingSetOperator(
        task_id="training_set", name="training", entities=valid.output, timestamp="time", repo="{root}/repo",
        feature_service="everything", columns=["price"], keys=["id"], label="sold", split={{"method": "hash"}},
    )
    one = TrainOperator(
        task_id="train_one", dataset=data.output, trainer=SklearnTrainer("sklearn.linear_model.LogisticRegression")
    )
    network = TrainOperator(
        task_id="train_network", dataset=data.output, trainer=TorchTrainer(epochs=3, batch_size=64)
    )
    first = EvaluateOperator(task_id="evaluate_one", candidates=one.output, gates=[{{"metric": "roc_auc", "min": 0.5}}])
    champion = PromoteOperator(task_id="promote_one", verdict=first.output)
    second = EvaluateOperator(
        task_id="evaluate_two", candidates=network.output, gates=[{{"metric": "roc_auc", "min": 0.5}}, {{"champion": "ignore"}}]
    )
    challenger = PromoteOperator(task_id="promote_two", verdict=second.output)
    back = RollbackOperator(task_id="rollback", reason="The network is too slow.")
    scored = ScoreOperator(task_id="score", dataset=data.output, part="test", name="predictions", window="2024")
    joined = JoinLabelsOperator(
        task_id="join_labels", predictions=scored.output, labels=valid.output, on=["id"], label="sold"
    )
    profiled = ProfileOperator(task_id="profile", dataset=joined.output)
    watched = MonitorOperator(
        task_id="monitor", dataset=joined.output, profiles=profiled.output, window="2024", policy={{"min_rows": 10}}
    )
    purged = PurgePredictionsOperator(task_id="purge", predictions="predictions", older_than="36500D")
    valid >> features >> data
    one >> network >> first >> champion >> second >> challenger >> back >> scored
    watched >> purged
"""
TASKS = (
    "ingest", "validate", "features", "training_set", "train_one", "train_network", "evaluate_one",
    "promote_one", "evaluate_two", "promote_two", "rollback", "score", "join_labels", "profile", "monitor", "purge",
)  # fmt: skip


def prepare(root: Path) -> None:
    import random

    import pyarrow as pa
    import pyarrow.parquet as pq

    root.mkdir()
    random.seed(0)
    lines = ["id,time,shop,price,sold"]
    for number in range(600):
        price = random.gauss(10, 4)
        sold = "yes" if random.random() < (0.8 if price < 10 else 0.2) else "no"
        day = f"2024-{number % 12 + 1:02d}-{number % 28 + 1:02d}T00:00:00Z"
        lines.append(f"{number},{day},{'ab'[number % 2]},{price:.3f},{sold}")
    (root / "days.csv").write_text("\n".join(lines) + "\n")
    repo = root / "repo"
    repo.mkdir()
    times = pa.array([f"2024-{month:02d}-01T00:00:00Z" for month in range(1, 13)] * 2).cast(
        pa.timestamp("us", tz="UTC")
    )
    table = pa.table({"shop": ["a"] * 12 + ["b"] * 12, "time": times, "rain": [float(n % 7) for n in range(24)]})
    pq.write_table(table, repo / "weather.parquet")
    (repo / "features.py").write_text(FEATURES)
    (repo / "feature_store.yaml").write_text(
        "project: shops\nprovider: local\nregistry: registry.db\nonline_store: {type: sqlite, path: online.db}\n"
        "entity_key_serialization_version: 3\n"
    )
    for path in (root, *root.rglob("*")):
        path.chmod(0o777)


def comparable(results: dict, root: Path, model: str) -> dict:
    """Remove what differs between runs: paths, names of models, times, durations and MLflow's random names."""
    text = json.dumps(results, indent=1, sort_keys=True)
    # Predictions contain the time at which they were made, and a profile contains the id of its dataset.
    timed = [results[task]["dataset"]["id"] for task in ("score", "join_labels")]
    timed.append(results["profile"]["profile"]["id"])
    for different in (str(root), model, *timed, *(identity[:12] for identity in timed)):
        text = text.replace(different, "DIFFERENT")
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(\+00:00|Z)", "TIME", text)
    text = re.sub(r"\d{8}T\d{6}\.\d+Z", "TIME", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "TIME", text)
    text = re.sub(r"(manual__)[^\"/]+", r"\1RUN", text)
    text = re.sub(r"\d[\d,.]* ?(s|ms|rows/s|rows a second)\b", "TAKEN", text)
    text = re.sub(r"(runs:/|m-)[0-9a-f]{32}", r"\1RANDOM", text)
    return json.loads(text, object_hook=lambda found: {k: v for k, v in found.items() if k not in CHANGES})


def predicted(root: Path, dataset: dict) -> list[dict]:
    from airflow_mlops.core.references import DatasetRef
    from airflow_mlops.data.datasets import open_dataset
    from airflow_mlops.data.store import ArtifactStore

    found = open_dataset(ArtifactStore(f"file://{root}/store"), DatasetRef.model_validate(dataset))
    return found.table("data", ["id", "prediction", "score", "model_version"]).to_pylist()


def tags_of(server: str, run_id: str) -> dict[str, str]:
    with urllib.request.urlopen(f"{server}/api/2.0/mlflow/runs/get?run_id={run_id}") as answer:
        return {tag["key"]: tag["value"] for tag in json.load(answer)["run"]["data"]["tags"]}


# The hashes of files differ, because MLmodel contains the id of the run.
CHANGES = (
    "usage",
    "run_id", "run_url", "seconds", "rows_per_second", "latency_ms", "ledger_entry", "newest_row_age_days", "files"
)  # fmt: skip


@pytest.fixture(scope="module")
def results() -> dict[str, dict]:
    return {}


@pytest.mark.parametrize("place", PLACES)
def test_every_step_gives_the_same_result_wherever_it_runs(place, cluster, server, results, run_dag, monkeypatch):
    from kubernetes import client

    monkeypatch.delenv("KUBECONFIG")
    root, model = cluster.folder / place, f"sales_{place}"
    prepare(root)
    mlflow = json.dumps({"conn_type": "mlflow", "host": server})
    name = "mlops-connections"
    if place == "pod":
        secret = client.V1Secret(
            metadata=client.V1ObjectMeta(name=name), string_data={"AIRFLOW_CONN_MLFLOW_DEFAULT": mlflow}
        )
        cluster.core.create_namespaced_secret(cluster.namespace, secret)
    text = {
        "worker": "Worker()",
        "process": "Process(python=sys.executable)",
        "pod": cluster.pod(env_from=[name], memory="2Gi"),
    }[place]
    run = run_dag(
        DAG.format(place=text, root=root, model=model),
        connections={"kubernetes_default": cluster.connection, "mlflow_default": mlflow},
    )
    assert set(run.states().values()) == {"success"}, run.states()
    results[place] = comparable({task: run.xcom(task) for task in TASKS}, root, model)
    assert all(results[place][task]["summary"] for task in TASKS)
    results[place]["predicted"] = predicted(root, run.xcom("score")["dataset"])
    if place == "pod":
        tags = tags_of(server, run.xcom("train_one")["run_id"])
        assert tags["mlops.pod"].startswith("contract-train-one-")
        assert tags["mlops.node"]
        assert tags["mlops.image"] == cluster.image
        assert "sha256:" in tags["mlops.image_digest"]
        assert 50 < int(tags["mlops.peak_memory_mb"]) < 2048
    for task in (*TASKS, "predicted"):
        for other in results.values():
            assert results[place][task] == other[task], task
