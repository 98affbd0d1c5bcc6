"""Profiles of shards by mapped tasks, and a report from them that equals the report of a single pass."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

import pytest

from airflow_mlops.core.errors import RegistryError, SpecError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.profiles import shards
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.profile import step as profile
from airflow_mlops.stages.profile.spec import ProfileSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.support.deployed import flights, promote, scoring_set, write

if TYPE_CHECKING:
    import pyarrow as pa

DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import JoinLabelsOperator, MonitorOperator, ProfileOperator

with DAG("shards_{model}_{number}", default_args={{"model": "{model}"}}):
    joined = JoinLabelsOperator(
        task_id="join_labels",
        predictions={{"name": "{model}_predictions", "window": "2013-04", "gaps": "allow"}}, labels={{"name": "flights_{model}"}},
        on=["flight"], label={{"name": "late", "expression": "arr_delay > 15"}}, on_missing="skip",
    )
    profiles = ProfileOperator.partial(task_id="profile", dataset=joined.output, shards=4).expand(shard=list(range(4)))
    MonitorOperator(
        task_id="monitor", dataset=joined.output, profiles=profiles.output, window="2013-04",
        trigger_rule="none_failed",
    )
"""


def test_mapped_shards_give_the_report_of_one_pass(run_dag, client, tmp_path):
    from airflow_mlops.settings import default_store

    store = ArtifactStore(default_store())
    context = StepContext(store=store)
    model = f"delays_{uuid.uuid4().hex[:8]}"
    # Without data, the shards are skipped. Monitoring then finds no champion in the registry, and requests the first
    # training.
    first = run_dag(DAG.format(model=model, number=0))
    assert set(first.states().values()) == {"skipped", "success"}
    assert first.xcom("monitor")["decision"] == "retrain"

    promote(client, tmp_path, store, model)
    data = flights(2_100, seed=2, shift=0.5)
    # There are four shards, and three batches of at most 1,024 rows, so one shard has no rows.
    for day in range(3):
        part = scoring_set(store, data.slice(700 * day, 700), f"2013-04-0{day + 1}", f"scoring_{model}")
        score.run(ScoreSpec(model=model, dataset=part), context)
    labels = write(store, f"flights_{model}", data.select(["flight", "arr_delay"]), "2013-04")
    done = run_dag(DAG.format(model=model, number=1))
    assert set(done.states().values()) == {"success"}
    profiled = [done.xcom("profile", map_index=number)["profile"] for number in range(4)]
    assert [(item["shard"], item["shards"], item["rows"]) for item in profiled] == [
        (0, 4, 1_024), (1, 4, 1_024), (2, 4, 52), (3, 4, 0)
    ]  # fmt: skip

    key = f"reports/{model}/2013-04"
    report, page = store.read_json(f"{key}.json"), store.read_bytes(f"{key}.html").decode()
    spec = {
        "predictions": {"name": f"{model}_predictions", "window": "2013-04", "gaps": "allow"}, "labels": labels, "on": ["flight"],
        "label": {"name": "late", "expression": "arr_delay > 15"}, "name": f"{model}_outcomes",
    }  # fmt: skip
    joined = join_labels.run(JoinLabelsSpec(**spec), context).dataset
    monitor.run(MonitorSpec(model=model, dataset=joined, window="2013-04"), context)
    again = store.read_json(f"{key}.json")
    assert {item["column"] for item in report["features"] if item["drifted"]} == {"distance"}
    assert report.pop("created") != again.pop("created")
    # One of them was written by a task, and the other without Airflow.
    assert report | {"provenance": None} == again | {"provenance": None}
    assert _timeless(page) == _timeless(store.read_bytes(f"{key}.html").decode())


def _timeless(page: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "", page)


@pytest.fixture
def champion(client, store, tmp_path):
    return promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}")


def predictions(store, champion, data: pa.Table):
    spec = ScoreSpec(model=champion.model, dataset=scoring_set(store, data, "2013-04"))
    return score.run(spec, StepContext(store=store)).dataset


def test_the_version_that_made_the_predictions_determines_the_columns(store, champion, client, tmp_path):
    made = predictions(store, champion, flights(100))
    promote(client, tmp_path, store, champion.model)
    done = profile.run(ProfileSpec(model=champion.model, dataset=made), StepContext(store=store))
    assert set(shards.read(store, done.profile).profile.columns) == {"distance", "wind", "score"}
    with pytest.raises(SpecError, match=f"holds predictions of model '{champion.model}', not of 'other'"):
        promote(client, tmp_path, store, "other")
        profile.run(ProfileSpec(model="other", dataset=made), StepContext(store=store))


def test_profiling_needs_a_champion(store, champion):
    spec = {"model": "nobody", "dataset": predictions(store, champion, flights(100))}
    with pytest.raises(RegistryError, match="'nobody' has no champion, which determines"):
        profile.run(ProfileSpec(**spec), StepContext(store=store))
    assert profile.run(ProfileSpec(**spec, on_missing="skip"), StepContext(store=store)).profile is None


def test_profiles_of_another_dataset_or_of_too_few_columns_are_refused(store, champion):
    context = StepContext(store=store)
    made = predictions(store, champion, flights(100))
    narrow = profile.run(ProfileSpec(columns=["wind", "score"], dataset=made), context)
    spec = {"model": champion.model, "dataset": made}
    with pytest.raises(SpecError, match="have no column 'distance'.*ProfileOperator"):
        monitor.run(MonitorSpec(**spec, profiles=narrow.model_dump()), context)
    half = profile.run(ProfileSpec(**spec, shards=2), context)
    with pytest.raises(SpecError, match="_predictions.* has 2 shards, .*shard 1"):
        monitor.run(MonitorSpec(**spec, profiles=[half.model_dump()]), context)
    # The dataset was written again after it was profiled.
    whole = profile.run(ProfileSpec(**spec), context)
    spec["dataset"] = predictions(store, champion, flights(101))
    with pytest.raises(SpecError, match="profiles do not belong to the monitored dataset"):
        monitor.run(MonitorSpec(**spec, profiles=[whole.model_dump()]), context)
