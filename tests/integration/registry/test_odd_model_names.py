"""Models with odd names or without the run of a version, and runs of many experiments, are found in a real MLflow."""

from __future__ import annotations

import uuid
from functools import partial

import pytest

from airflow_mlops.core.errors import RegistryError
from airflow_mlops.overview import trainings
from airflow_mlops.overview.progress import progress
from airflow_mlops.overview.versions import from_mlflow
from airflow_mlops.registry.aliases import verify
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.versions import IDENTITY, champion, identical


@pytest.fixture
def registered(client):
    """Register version 1 of a model whose name is unique to the test, and return the name."""
    names = []

    def registered(name):
        names.append(f"{name} {uuid.uuid4().hex[:8]}")
        client.create_registered_model(names[-1])
        client.create_model_version(names[-1], source="s3://models/one", tags={IDENTITY: "one"})
        return names[-1]

    yield registered
    for name in names:
        client.delete_registered_model(name)


@pytest.mark.parametrize("start", ["bob's model", 'the "best" model', "it''s", "a\\b\\", "a' or name != 'b", "x -- y"])
def test_the_versions_of_a_model_are_found_by_its_name(start, registered, client, store):
    other, model = registered("other"), registered(start)
    client.set_registered_model_alias(model, "champion", "1")
    assert champion(client, model).model == model
    assert identical(client, model, "one").model == model
    ledger = Ledger(store, model)
    assert verify(client, ledger) == []
    assert [item.version for item in from_mlflow(client, ledger, [], "").versions] == [1]
    assert identical(client, other, "one").model == other


def test_a_run_is_found_in_any_of_many_experiments(client, monkeypatch):
    oldest, _ = (client.create_experiment(f"many {uuid.uuid4().hex[:8]}") for _ in range(2))
    tags = {"mlops.dag_id": "train", "mlops.dag_run_id": oldest, "mlops.task_id": "network"}
    run = client.create_run(oldest, tags=tags)
    monkeypatch.setattr(client, "search_experiments", partial(client.search_experiments, max_results=1))
    assert progress(client, "train", oldest, "network", -1, "").status == run.info.status


def test_the_versions_of_a_model_are_listed_without_the_run_of_one(registered, client, store):
    model = registered("gone")
    client.create_model_version(model, source="s3://models/two", run_id=uuid.uuid4().hex)
    found = from_mlflow(client, Ledger(store, model), [], "http://mlflow:5000").versions
    assert [(item.version, item.mlflow_url) for item in found] == [(2, None), (1, None)]


def test_a_name_that_mlflow_cannot_search_for_is_refused_with_this_reason(registered, client, store, monkeypatch):
    model, other = registered('bob\'s "best" model'), registered("other")
    for search in (
        lambda: identical(client, model, "one"),
        lambda: verify(client, Ledger(store, model)),
        lambda: from_mlflow(client, Ledger(store, model), [], ""),
        lambda: progress(client, "train", 'bob\'s "best" run', "train", -1, ""),
    ):
        with pytest.raises(RegistryError, match="^MLflow cannot search for .* cannot express text with both ' and \""):
            search()
    # This model does not prevent the listing of other models. Those of other tests are not read.
    listed = [name for name in trainings._models(client) if name in (model, other)]
    assert sorted(listed) == sorted([model, other])
    monkeypatch.setattr(trainings, "_models", lambda _: listed)
    searches, search = [], client.search_model_versions
    monkeypatch.setattr(
        client, "search_model_versions", lambda query, **options: searches.append(query) or search(query, **options)
    )
    assert list(trainings.find(client, store)) == []
    assert searches == [f"name = '{other}'"]
