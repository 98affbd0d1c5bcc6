"""What users do on the pages: request retraining, roll back, acknowledge. The ledger records each action."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Entry
from airflow_mlops.registry.requests import answer, read_answer, recorded_requests
from tests.integration.plugin.conftest import client
from tests.support import reports
from tests.support.models import promote

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airflow_mlops.data.store import ArtifactStore

API = "/mlops/api/models"


@pytest.fixture
def model(app: Any, store: ArtifactStore) -> str:
    """A model with two promoted versions and a watched window, on whose requests the DAG ``train`` is scheduled."""
    from airflow.models.asset import AssetModel, DagScheduleAssetReference
    from airflow.utils.session import create_session

    name = f"delays_{uuid.uuid4().hex[:8]}"
    promote(store, 1, name)
    promote(store, 2, name)
    reports.publish(store, "2013-04", "watch", model=name)
    uri = f"mlops://{name}/retrain"
    with create_session() as session:
        asset = AssetModel(name=uri, uri=uri, group="asset")
        session.add(asset)
        session.flush()
        session.add(DagScheduleAssetReference(asset_id=asset.id, dag_id="train"))
    return name


def entries(store: ArtifactStore, model: str) -> list[Entry]:
    return Ledger(store, model).entries()


def events(model: str) -> list[Any]:
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = select(AssetEvent).join(AssetModel, AssetEvent.asset_id == AssetModel.id)
        return [*session.scalars(found.where(AssetModel.uri == f"mlops://{model}/retrain").order_by(AssetEvent.id))]


def bodies(model: str) -> dict[str, dict[str, Any]]:
    window = {"start": "2013-04-01T00:00:00Z", "end": "2013-05-01T00:00:00Z"}
    return {
        "retrain": {"reason": "Snow."},
        "rollback": {"version": 1, "reason": "Snow."},
        "acknowledge": {"window": window, "note": "It snowed."},
    }


@pytest.mark.parametrize("action", ["retrain", "rollback", "acknowledge"])
def test_a_user_who_may_not_edit_a_dag_cannot_act(app: Any, store: ArtifactStore, model: str, action: str) -> None:
    body = bodies(model)[action]
    assert client(app, None).post(f"{API}/{model}/{action}", json=body).status_code == 401
    assert client(app, "viewer").post(f"{API}/{model}/{action}", json=body).status_code == 403
    answer = client(app, "user").post(f"{API}/no_such_model/{action}", json=body)
    assert answer.status_code == 404
    assert len(entries(store, model)) == 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Content-Type": "text/plain"}, 415),
        ({"Sec-Fetch-Site": "same-origin", "Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://localhost"}, 200),
    ],
)
def test_a_page_of_another_site_cannot_act_with_the_cookie(
    app: Any, store: ArtifactStore, model: str, headers: dict[str, str], status: int
) -> None:
    user = client(app, "user")
    _, _, token = user.headers.pop("Authorization").partition(" ")
    user.cookies.set("_token", token)
    content = b'{"reason": "Snow."}'
    found = user.post(
        f"{API}/{model}/retrain", content=content, headers={"Content-Type": "application/json", **headers}
    )
    assert found.status_code == status
    assert (len(entries(store, model)) == 3) == (status == 200)


def test_a_request_leaves_an_entry_and_sends_the_event_of_the_policy(
    app: Any, store: ArtifactStore, model: str
) -> None:
    user = client(app, "user", "grace")
    found = user.post(f"{API}/{model}/retrain", json={"reason": " Snow <b>. "})
    assert found.status_code == 200, found.text
    assert "train" in found.json()["message"]
    entry = entries(store, model)[-1]
    assert (entry.decision, entry.reason, entry.provenance.user) == ("requested", "Snow <b>.", "grace")
    assert entry.requested is not None
    assert entry.requested.window.label == "2013-04"
    assert found.json()["decision"]["by"] == "grace"
    # The plugin sends it a second time, without a key, for DAGs without partitions.
    assert [event.partition_key for event in events(model)] == ["2013-04", None]
    for event in events(model):
        assert event.extra["request"] == entry.requested.model_dump(mode="json")
    request = user.get(f"{API}/{model}").json()["request"]
    assert (request["state"], request["by"]) == ("open", "grace")
    # If the same request is made again, its event is sent again, and no second entry is written.
    assert user.post(f"{API}/{model}/retrain", json={"reason": "Snow <b>."}).status_code == 200
    assert len(entries(store, model)) == 3
    assert len(events(model)) == 4


def test_each_request_of_a_user_is_answered_by_its_own_training(app: Any, store: ArtifactStore, model: str) -> None:
    user = client(app, "user")

    def states() -> list[str]:
        return [item.state for item in recorded_requests(store, model, entries(store, model))]

    user.post(f"{API}/{model}/retrain", json={"reason": "Snow."})
    user.post(f"{API}/{model}/retrain", json={"reason": "Ice."})
    assert states() == ["expired", "open"]
    last = entries(store, model)[-1].requested
    assert last is not None
    answer(store, Provenance(dag_id="train", run_id="r", task_id="t", requests=[last]))
    assert states() == ["expired", "answered"]
    user.post(f"{API}/{model}/retrain", json={"reason": "Wind."})
    assert states() == ["expired", "answered", "open"]
    newest = entries(store, model)[-1].requested
    assert newest is not None
    assert read_answer(store, newest) is None
    assert user.get(f"{API}/{model}").json()["request"]["reason"] == "Wind."


def test_without_a_dag_that_listens_nothing_is_requested(app: Any, store: ArtifactStore) -> None:
    promote(store, 1, "lonely")
    reports.publish(store, "2013-04", model="lonely")
    found = client(app, "user").post(f"{API}/lonely/retrain", json={"reason": "Snow."})
    assert found.status_code == 409
    assert "mlops://lonely/retrain" in found.json()["detail"]
    assert len(entries(store, "lonely")) == 1


@pytest.mark.parametrize("reason", ["", "  ", "x" * 2001])
def test_a_reason_is_required(app: Any, store: ArtifactStore, model: str, reason: str) -> None:
    user = client(app, "user")
    assert user.post(f"{API}/{model}/retrain", json={"reason": reason}).status_code == 422
    assert user.post(f"{API}/{model}/rollback", json={"reason": reason}).status_code == 422
    assert len(entries(store, model)) == 2


def test_a_watched_window_is_acknowledged_once(app: Any, store: ArtifactStore, model: str) -> None:
    user, body = client(app, "user", "grace"), bodies(model)["acknowledge"]
    for _ in range(2):
        assert user.post(f"{API}/{model}/acknowledge", json=body).status_code == 200
    *_, entry = entries(store, model)
    assert (entry.seq, entry.decision, entry.window) == (3, "acknowledged", Window.model_validate("2013-04"))
    for found in (user.get(f"{API}/{model}").json(), *user.get(API).json()["models"]):
        said = found["monitoring"]["acknowledged"]
        assert (said["by"], said["note"]) == ("grace", "It snowed.")
    # The acknowledgement does not change the champion or the facts for later decisions.
    assert user.get(f"{API}/{model}").json()["champion"]["version"] == 2
    reports.publish(store, "2013-05", "watch", model=model)
    assert user.post(f"{API}/{model}/acknowledge", json=body).status_code == 409


def test_a_healthy_window_is_not_acknowledged(app: Any, store: ArtifactStore, model: str) -> None:
    reports.publish(store, "2013-04", "healthy", model=model)
    assert client(app, "user").post(f"{API}/{model}/acknowledge", json=bodies(model)["acknowledge"]).status_code == 409
    assert len(entries(store, model)) == 2


def test_a_rollback_is_shown_first_and_then_done(
    app: Any, store: ArtifactStore, client_of_mlflow: MlflowClient, versions: list[ModelVersionRef]
) -> None:
    from airflow_mlops.registry.versions import champion

    v1, v2 = versions
    name = v1.model
    user = client(app, "user", "grace")
    seen = user.get(f"{API}/{name}/rollback").json()
    assert (seen["current"]["version"], seen["target"]["version"], seen["former"]) == (
        v2.version,
        v1.version,
        [v1.version],
    )
    stale = user.post(f"{API}/{name}/rollback", json={"reason": "Snow.", "version": v1.version, "champion": 7})
    assert stale.status_code == 409
    assert champion(client_of_mlflow, name) == v2
    done = user.post(f"{API}/{name}/rollback", json={"reason": "Snow.", "version": v1.version, "champion": v2.version})
    assert done.status_code == 200, done.text
    assert champion(client_of_mlflow, name) == v1
    entry = entries(store, name)[-1]
    assert (entry.decision, entry.champion, entry.provenance.user) == ("rolled_back", v1, "grace")
    assert done.json()["decision"]["seq"] == entry.seq
    [listed] = user.get(API).json()["models"]
    assert (listed["champion"]["version"], listed["champion"]["by"]) == (v1.version, "grace")
    never = user.get(f"{API}/{name}/rollback?version=9")
    assert never.status_code == 409


def test_a_change_to_the_last_entry_is_found_by_its_hash_in_mlflow(
    app: Any, store: ArtifactStore, versions: list[ModelVersionRef]
) -> None:
    name = versions[0].model
    viewer = client(app, "viewer")
    assert viewer.get(f"{API}/{name}/versions").json()["ledger"] is None
    *_, last = sorted(store.find(f"ledger/{name}"))
    store.write_json(last, {**store.read_json(last), "reason": "It is much better."})
    assert viewer.get(f"{API}/{name}").json()["chain"]["intact"]
    problem = viewer.get(f"{API}/{name}/versions").json()["ledger"]
    assert "entry 2 was changed" in problem
    assert store.url_of(last) in problem


def test_without_mlflow_a_rollback_says_so_and_leaves_no_entry(app: Any, store: ArtifactStore, model: str) -> None:
    found = client(app, "user").post(f"{API}/{model}/rollback", json=bodies(model)["rollback"])
    assert found.status_code == 409
    assert "mlflow_default" in found.json()["detail"]
    assert len(entries(store, model)) == 2


@pytest.fixture
def client_of_mlflow(client: MlflowClient) -> MlflowClient:
    return client


@pytest.fixture
def versions(client_of_mlflow: MlflowClient, store: ArtifactStore, app: Any) -> list[ModelVersionRef]:
    """Two versions in MLflow, of which the second was promoted after the first."""
    from airflow_mlops.registry.records.verdict import CandidateVerdict, Verdict
    from airflow_mlops.stages.context import StepContext
    from airflow_mlops.stages.promote import step
    from airflow_mlops.stages.promote.spec import PromoteSpec

    name = f"delays_{uuid.uuid4().hex[:8]}"
    client_of_mlflow.create_registered_model(name)
    run = client_of_mlflow.create_run("0")
    made: list[ModelVersionRef] = []
    for key in ("a", "b"):
        found = client_of_mlflow.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
        ref = ModelVersionRef(model=name, version=int(found.version), run_id=run.info.run_id)
        verdict = Verdict(
            model=name,
            dataset_name="d",
            dataset_id="1",
            part="test",
            metric="roc_auc",
            winner=ref,
            champion=made[-1] if made else None,
            candidates=[CandidateVerdict(candidate=ref, metrics={"roc_auc": 0.7}, gates=[], passed=True)],
            reason="It is better.",
        )
        who = Provenance(dag_id="train", run_id="r", task_id="promote")
        step.run(PromoteSpec(verdict=verdict), StepContext(store=store, key=key, provenance=who))
        made.append(ref)
    return made
