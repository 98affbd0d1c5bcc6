"""Scoring with a version other than the champion, in a real MLflow registry: its predictions are stored separately."""

from __future__ import annotations

import uuid

import pyarrow as pa
import pytest

from airflow_mlops.core.errors import RegistryError, SpecError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import index
from airflow_mlops.policy.spec import Policy
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.support.deployed import flights, promote, scoring_set, write


@pytest.fixture
def versions(client, store, tmp_path):
    """Two versions, of which the first is the champion and the second the challenger."""
    model = f"delays_{uuid.uuid4().hex[:8]}"
    first, second = (promote(client, tmp_path, store, model) for _ in range(2))
    client.set_registered_model_alias(model, "champion", str(first.version))
    client.set_registered_model_alias(model, "challenger", str(second.version))
    return first, second


def do(store, model, dataset, **fields):
    return score.run(ScoreSpec(model=model, dataset=dataset, **fields), StepContext(store=store))


def test_another_version_scores_into_datasets_of_its_own(store, versions):
    champion, challenger = versions
    model = champion.model
    rows = scoring_set(store, flights(200), "2013-04")
    acted_on = do(store, model, rows)
    standing = [section.model_dump() for section in index.of(store, model)]
    by_alias = do(store, model, rows, alias="challenger")
    by_number = do(store, model, rows, version=str(challenger.version))
    assert by_alias.scored_by == by_number.scored_by == challenger
    assert by_alias.dataset.name == f"{model}_shadow_predictions"
    shadow = open_dataset(store, by_number.dataset)
    assert shadow.table()["model_version"].unique().to_pylist() == [challenger.version]
    assert shadow.manifest.details["shadow"] is True
    (current,) = PredictionLog(store, model).entries()
    assert current.id == acted_on.dataset.id
    assert "shadow" not in current.details
    (current,) = PredictionLog(store, model, f"{model}_shadow_predictions").entries()
    assert current.id == by_number.dataset.id
    assert [section.model_dump() for section in index.of(store, model)] == standing
    index.rebuild(store)
    found = [section.scoring for section in index.without_history(store, model) if section.scoring is not None]
    assert [(item.name, item.last.version) for item in found] == [(f"{model}_predictions", champion.version)]


def test_labelled_shadow_predictions_stay_apart_and_are_not_monitored(store, versions):
    model, data = versions[0].model, flights(100)
    rows = scoring_set(store, data, "2013-04")
    acted_on, shadow = do(store, model, rows).dataset, do(store, model, rows, alias="challenger").dataset
    labels = write(store, f"arrivals_{model}", data.select(["flight", "arr_delay"]), "2013-04")

    def join(predictions, name):
        spec = JoinLabelsSpec(
            predictions=predictions, labels=labels, on=["flight"], name=name,
            label={"name": "late", "expression": "arr_delay > 15"},
        )  # fmt: skip
        return join_labels.run(spec, StepContext(store=store)).dataset

    for predictions, name in ((shadow, f"{model}_outcomes"), ([acted_on, shadow], f"{model}_both")):
        with pytest.raises(SpecError, match="shadow"):
            join(predictions, name)
    joined = join(shadow, f"{model}_shadow_outcomes")
    assert open_dataset(store, joined).manifest.details["shadow"] is True
    with pytest.raises(SpecError, match="shadow"):
        monitor.run(MonitorSpec(model=model, dataset=joined, policy=Policy()), StepContext(store=store))


def test_a_missing_version_or_alias_and_contradictions_are_errors(store, versions):
    model = versions[0].model
    rows = scoring_set(store, flights(10), "2013-04")
    with pytest.raises(RegistryError, match="v99"):
        do(store, model, rows, version=99, on_missing="skip")
    with pytest.raises(RegistryError, match="nobody"):
        do(store, model, rows, alias="nobody")
    assert do(store, model, rows, alias="nobody", on_missing="skip").dataset is None
    for fields in ({"version": 1, "alias": "challenger"}, {"version": 1, "name": f"{model}_predictions"}):
        with pytest.raises(ValueError, match="version|name"):
            do(store, model, rows, **fields)
    assert not store.keys(f"datasets/{model}_shadow_predictions")


DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import ScoreOperator

with DAG("score_{model}", default_args={{"model": "{model}", "dataset": {{"name": "scoring_{model}"}}}}, params={{"version": 2}}):
    ScoreOperator(task_id="score")
    ScoreOperator(task_id="shadow", version="{{{{ params.version }}}}")
"""


def test_the_version_is_templated(run_dag, client, tmp_path):
    from airflow_mlops.settings import default_store

    store = ArtifactStore(default_store())
    model = f"delays_{uuid.uuid4().hex[:8]}"
    champion, _ = (promote(client, tmp_path, store, model) for _ in range(2))
    client.set_registered_model_alias(model, "champion", str(champion.version))
    scoring_set(store, flights(100), "2013-04", f"scoring_{model}")
    run_dag(DAG.format(model=model))
    for name, version in ((f"{model}_predictions", 1), (f"{model}_shadow_predictions", 2)):
        (found,) = PredictionLog(store, model, name).present()
        assert found.table(columns=["model_version"])["model_version"].unique() == pa.array([version])
