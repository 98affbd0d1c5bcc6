"""What commit f9fd193 stored is read by the present version: datasets, results, reports, ledger, MLflow.

``tests/data/stored/write.py`` wrote the archive with the code of that commit: two trainings of two candidates each, a promotion, three
monitored windows, a second promotion and a rollback.
"""

from __future__ import annotations

import importlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from airflow_mlops import __version__
from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.data.datasets import find_datasets, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from tests.integration.conftest import run_mlflow

EVERY = ["healthy", "watch", "retrain"]
ARCHIVE = Path(__file__).parents[2] / "data" / "stored" / "f9fd193.zip"


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Iterator[Path]:
    """The archive, unpacked, with an MLflow server on its database."""
    folder = tmp_path_factory.mktemp("stored")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    with run_mlflow(folder / "mlflow", "127.0.0.1") as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": address}))
        yield folder


@pytest.fixture(scope="module")
def store(stored) -> ArtifactStore:
    return ArtifactStore(f"file://{stored}/store")


@pytest.fixture(scope="module")
def calls(stored) -> list[dict[str, Any]]:
    return json.loads((stored / "calls.json").read_text())


@pytest.fixture
def client(stored):
    from airflow_mlops.core.connections import from_environment
    from airflow_mlops.core.references import MLflowTarget
    from airflow_mlops.registry.client import connect

    return connect(MLflowTarget(), from_environment)


def run(step: str, store: ArtifactStore, **fields):
    """The present step on what is stored."""
    function = importlib.import_module(f"airflow_mlops.stages.{step}.step").run
    spec = get_type_hints(function)["spec"].model_validate(fields)
    return function(spec, StepContext(store=store, key=f"results/now/{step}.json"))


def of(calls: list[dict[str, Any]], step: str) -> list[dict[str, Any]]:
    return [call for call in calls if call["step"] == step]


def test_datasets(store, calls):
    refs = [DatasetRef.model_validate(call["result"]["dataset"]) for call in calls if call["result"].get("dataset")]
    assert len({ref.name for ref in refs}) == 5
    for ref in refs:
        dataset = open_dataset(store, ref)
        dataset.verify()
        assert dataset.table().num_rows == ref.rows
    assert [item.manifest.window.label for item in find_datasets(store, "flights")] == [
        "2013-01", "2013-02", "2013-03", "2013-04",
    ]  # fmt: skip


def test_a_retry_finds_every_result(store, calls):
    from airflow_mlops.stages.runner import run_call

    assert {call["step"] for call in calls} >= {
        "ingest",
        "training_set",
        "train",
        "evaluate",
        "promote",
        "score",
        "monitor",
    }
    for call in calls:
        found = run_call(
            StepCall(
                step=call["step"],
                spec=call["spec"],
                store=store.url,
                key=call["key"],
                version=__version__,
                provenance=call["provenance"],
            )
        )
        assert found == call["result"]


def test_stored_specs_and_results_keep_their_meaning(calls):
    for call in calls:
        hints = get_type_hints(importlib.import_module(f"airflow_mlops.stages.{call['step']}.step").run)
        spec = hints["spec"].model_validate(call["spec"]).model_dump(mode="json")
        # New fields have defaults, and no field was removed.
        assert {name: spec[name] for name in call["spec"]}.keys() == call["spec"].keys()
        result = hints["return"].model_validate(call["result"]).model_dump(mode="json")
        assert contained(call["result"], result)


def contained(old: Any, new: Any) -> bool:
    """Whether all of ``old`` is in ``new``, which may have further fields."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(name in new and contained(value, new[name]) for name, value in old.items())
    if isinstance(old, list):
        return isinstance(new, list) and len(old) == len(new) and all(map(contained, old, new))
    return old == new


def test_reports(store, calls):
    from airflow_mlops.stages.model_health.spec import ModelHealthSpec
    from airflow_mlops.stages.model_health.step import look

    for call in of(calls, "monitor"):
        health = look(ModelHealthSpec(model="delays", window=call["result"]["window"], accept=EVERY), store)
        assert (health.decision, health.reason) == (call["result"]["decision"], call["result"]["reason"])
    assert look(ModelHealthSpec(model="delays", accept=EVERY), store).window.label == "2013-04"


def test_the_whole_report(store, calls):
    from airflow_mlops.policy.findings import Report

    for call in of(calls, "monitor"):
        key = call["result"]["report_url"].partition("/store/")[2].removesuffix(".html") + ".json"
        written = store.read_json(key)
        assert contained(written, Report.model_validate(written).model_dump(mode="json"))


def test_the_ledger_and_the_registry(store, client):
    from airflow_mlops.registry.aliases import verify
    from airflow_mlops.registry.ledger import Ledger
    from airflow_mlops.registry.versions import champion

    entries = verify(client, Ledger(store, "delays"))
    assert [entry.decision for entry in entries] == ["promoted", "requested", "promoted", "requested", "rolled_back"]
    assert [entry.champion.version for entry in entries if entry.moves] == [1, 3, 1]
    assert entries[1].requested.window.label == "2013-03"
    assert champion(client, "delays").version == 1


def test_the_contract_and_the_profile_of_each_version(store, client):
    from airflow_mlops.models import contracts
    from airflow_mlops.profiles.profile import ModelProfile

    for number in (1, 2, 3, 4):
        known = contracts.read(client, store, ModelVersionRef(model="delays", version=number, run_id=""))
        assert [feature.name for feature in known.contract.features] == ["hour", "distance", "carrier", "humid"]
        profile = ModelProfile.model_validate(known.profile)
        assert profile.features.rows == 490
        assert set(profile.importance) == {"hour", "distance", "carrier", "humid"}


def test_the_lifecycle_continues_on_the_store(store, calls):
    features = of(calls, "training_set")[-1]["result"]["dataset"]
    again = run("score", store, model="delays", dataset=features, window="2013-04", name="again")
    assert (again.scored_by.version, again.dataset.rows) == (1, 700)

    before = of(calls, "score")[0]["result"]["dataset"]
    window = of(calls, "training_set")[1]["result"]["dataset"]
    same = run("score", store, model="delays", dataset=window, window="2013-02", name="same")
    old, new = (
        open_dataset(store, DatasetRef.model_validate(ref)).table() for ref in (before, same.dataset.model_dump())
    )
    assert old["score"].to_pylist() == new["score"].to_pylist()

    for call in of(calls, "monitor")[:2]:
        report = run("monitor", store, **call["spec"])
        assert report.decision == call["result"]["decision"]
        assert report.metrics["roc_auc"] == pytest.approx(call["result"]["metrics"]["roc_auc"], abs=1e-12)

    assert run("reproduce", store, model="delays", version=3).reproduced

    fits = [call["result"]["candidate"] for call in of(calls, "train")]
    verdict = run("evaluate", store, candidates=fits[2:]).verdict
    assert verdict.winner.version == 3
    assert run("promote", store, verdict=verdict.model_dump(mode="json")).champion.version == 3
    assert run("rollback", store, model="delays", reason="tried").champion.version == 1
