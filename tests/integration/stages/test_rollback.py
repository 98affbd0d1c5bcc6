"""A rollback restores preprocessing, features and threshold, and checks the features in Feast."""

from __future__ import annotations

import os
import shutil
import textwrap
import uuid
from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.core.errors import RegistryError
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.versions import champion, download
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.stages.training_set import step as training_set_step
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from tests.integration.stages.test_promote import back, do, verdict
from tests.support import candidates
from tests.support.feature_repo import FEATURE_STORE
from tests.support.training import flights, training_set

START = datetime(2013, 1, 1, tzinfo=timezone.utc)
DEFINITIONS = """
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, String

place = Entity(name="place", join_keys=["place"], value_type=ValueType.STRING)
weather = FeatureView(
    name="weather", entities=[place], source=FileSource(name="hourly", path="hourly.parquet", timestamp_field="at"),
    schema=[Field(name="place", dtype=String), Field(name="distance", dtype=Float64){wind}],
)
delays = FeatureService(name="{service}", features=[weather.with_name("origin")])
"""
WIND = ', Field(name="wind", dtype=Float64)'


@pytest.fixture
def model():
    return f"late_{uuid.uuid4().hex[:8]}"


def served(client, model):
    """The model that scoring uses now."""
    return OnnxModel.load(download(client, champion(client, model)))


def test_preprocessing_and_features_are_rolled_back_with_the_model(client, store, model):
    def learn(estimator, **details):
        spec = TrainSpec(dataset=training_set(store, **details), model=model, trainer={"estimator": estimator})
        return train.run(spec, StepContext(store, f"results/{uuid.uuid4().hex}.json")).candidate

    # v1 imputes, scales and has one column per carrier. v2 has ordinal codes, and other features.
    v1 = learn("sklearn.linear_model.LogisticRegression", features=["distance", "hour", "carrier"])
    v2 = learn("sklearn.ensemble.RandomForestClassifier", features=["hour", "weekend", "tail"])
    rows = flights(200, seed=5)
    do(store, verdict(v1, None), "a")
    before = served(client, model)
    do(store, verdict(v2, v1), "b")
    between = served(client, model)
    assert not np.array_equal(between.predict(rows).score, before.predict(rows).score)
    back(store, model, "c")
    after = served(client, model)
    assert after.contract == before.contract
    assert [feature.name for feature in after.contract.features] == ["distance", "hour", "carrier"]
    np.testing.assert_array_equal(after.predict(rows).score, before.predict(rows).score)
    np.testing.assert_array_equal(after.predict(rows).prediction, before.predict(rows).prediction)
    # The ledger records the same origin as for its promotion.
    promoted, _, rolled_back = Ledger(store, model).entries()
    assert rolled_back.origins == promoted.origins
    (origin,) = rolled_back.origins
    assert (origin.version, origin.dataset) == (1, before.contract.dataset_id)
    assert len(origin.code) == len(origin.environment) == 64
    assert origin.package


def test_the_decision_threshold_is_rolled_back_with_the_model(client, store, model, tmp_path):
    dataset = candidates.training_set(store)
    rows = candidates.held_out(rows=200)
    made = [
        candidates.register(client, tmp_path / str(n), dataset, (2, 0), model=model, threshold=threshold)
        for n, threshold in enumerate((0.9, 0.2))
    ]
    do(store, verdict(made[0], None), "a")
    strict = served(client, model).predict(rows).prediction
    do(store, verdict(made[1], made[0]), "b")
    assert served(client, model).predict(rows).prediction.sum() > strict.sum()
    back(store, model, "c")
    assert served(client, model).contract.threshold == 0.9
    np.testing.assert_array_equal(served(client, model).predict(rows).prediction, strict)


# Feast


@pytest.fixture
def repo(tmp_path):
    folder = tmp_path / "features"
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(FEATURE_STORE)
    times = [START + timedelta(hours=hour) for hour in range(100)]
    random = np.random.default_rng(0)
    pq.write_table(
        pa.table(
            {
                "place": ["EWR"] * 100,
                "at": pa.array(times, pa.timestamp("us", "UTC")),
                "distance": random.normal(size=100),
                "wind": random.normal(size=100),
            }
        ),
        folder / "hourly.parquet",
    )
    apply(folder)
    return folder


def apply(folder, wind=WIND, service="delays"):
    (folder / "definitions.py").write_text(textwrap.dedent(DEFINITIONS).format(wind=wind, service=service))
    feast = feast_repo.open_store(str(folder))
    feast_repo.apply(feast, feast_repo.parse_repo(feast))


@pytest.fixture
def two(client, store, model, repo, tmp_path, monkeypatch):
    """v1 was trained on features from Feast, and v2, the champion, on other data."""
    random = np.random.default_rng(1)
    events = pa.table(
        {
            "place": ["EWR"] * 80,
            "time": pa.array([START + timedelta(hours=n + 1) for n in range(80)], pa.timestamp("us", "UTC")),
            "label": random.random(80) < 0.5,
        }
    )
    with DatasetWriter(store, "events") as writer:
        writer.write(events)
        entities = writer.commit()[0].ref
    monkeypatch.chdir(tmp_path)
    # A DAG may give a relative path. The manifest contains the absolute one.
    spec = TrainingSetSpec(
        name="joined", entities=entities, timestamp="time", repo=repo.name, feature_service="delays", label="label"
    )
    joined = training_set_step.run(spec, StepContext(store=store)).dataset
    monkeypatch.chdir("/")
    assert open_dataset(store, joined).manifest.source["feast_repo"] == str(repo)
    v1 = candidates.register(client, tmp_path / "1", joined, (2, 0), model=model)
    v2 = candidates.register(client, tmp_path / "2", candidates.training_set(store), (2, 0), model=model)
    do(store, verdict(v1, None), "a")
    do(store, verdict(v2, v1), "b")
    return v1, v2


def test_a_rollback_checks_the_features_in_feast(two, client, store, model):
    result = back(store, model, "c")
    assert champion(client, model) == two[0]
    assert result.summary == f"Rolled {model} back from v2 to v1: It was wrong about snow."
    # A version without features from Feast needs no check.
    assert "not checked" not in back(store, model, "d", to_version=2).summary


@pytest.mark.parametrize(
    ("change", "gone"), [({"wind": ""}, "origin:wind"), ({"service": "other"}, "'origin:distance', 'origin:wind'")]
)
def test_a_rollback_to_missing_features_is_refused(change, gone, two, client, store, model, repo):
    apply(repo, **change)
    with pytest.raises(RegistryError) as refused:
        back(store, model, "c")
    for fact in (str(two[0]), gone, "feature service 'delays'", str(repo)):
        assert fact in str(refused.value)
    assert champion(client, model) == two[1]
    assert len(Ledger(store, model).entries()) == 2
    apply(repo)
    assert back(store, model, "c").champion == two[0]


@pytest.mark.parametrize("outage", ["repository", "registry", "training set"])
def test_a_rollback_continues_if_feast_cannot_be_read_and_says_so(outage, two, client, store, model, repo):
    if outage == "repository":
        shutil.rmtree(repo)
    elif outage == "registry":
        (repo / "registry.db").write_bytes(b"\xff\xff\xff\xff")
    else:
        shutil.rmtree(store.path("datasets/joined"))
    result = back(store, model, "c")
    assert champion(client, model) == two[0]
    problem = {
        "repository": f"{repo} is not a Feast repository",
        "registry": "feature_store.yaml",
        "training set": "is not in the artifact store",
    }[outage]
    assert "features in Feast were not checked, because" in result.summary
    assert problem in result.summary


# Lost events

LOST = """
from airflow.sdk import DAG, task
from airflow_mlops.operators import PromoteOperator, RollbackOperator

with DAG("lost_{name}"):
    {task}
"""


def test_a_lost_event_is_sent_by_the_next_task_and_only_once(client, airflow_db, run_dag, model, tmp_path):
    shared = ArtifactStore(os.environ["AIRFLOW__MLOPS__ARTIFACTS"])
    dataset = candidates.training_set(shared)
    v1, v2 = (candidates.register(client, tmp_path / str(n), dataset, (2, 0), model=model) for n in (1, 2))
    # The state is the same as if the task was killed after it moved the alias and before Airflow registered the event.
    do(shared, verdict(v1, None), "killed")
    stale = verdict(v2, None).model_dump(mode="json")
    source = LOST.format(name=model, task=f"PromoteOperator(task_id='promote', verdict={stale!r})")
    first = run_dag(source)
    assert not first.xcom("promote")["promoted"]
    ((uri, extra),) = first.asset_events()
    assert (uri, extra["version"], extra["replaced"]) == (f"mlops://{model}/champion", 1, None)
    assert run_dag(source).asset_events() == []
    do(shared, verdict(v2, v1), "killed as well")
    again = LOST.format(
        name=f"{model}_back",
        task=f"RollbackOperator(task_id='rollback', model={model!r}, to_version=2, reason='Is it v2?')",
    )
    second = run_dag(again)
    assert not second.xcom("rollback")["rolled_back"]
    ((_, extra),) = second.asset_events()
    assert (extra["version"], extra["replaced"]) == (2, 1)
    entry = Ledger(shared, model).entries()[1]
    assert (entry.decision, entry.provenance.user) == ("refused", "dag_test")
