"""MLflow's webhook, as MLflow itself makes and signs it, at Airflow's API server."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.plugin import webhooks
from airflow_mlops.registry import aliases
from airflow_mlops.registry.aliases import carry_out, verify
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Decision, Entry
from tests.integration.plugin.conftest import client as http

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow import MlflowClient

    from airflow_mlops.data.store import ArtifactStore

URL = "http://localhost/mlops/webhooks/mlflow"
SECRET = "a secret of MLflow and Airflow"
Send = Any


@pytest.fixture(autouse=True)
def accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__MLOPS__WEBHOOK_CONN_ID", "the_webhook")
    monkeypatch.setenv("AIRFLOW_CONN_THE_WEBHOOK", json.dumps({"conn_type": "generic", "password": SECRET}))
    monkeypatch.setattr(aliases, "_REPAIR_SECONDS", 0)


@pytest.fixture
def model(app: Any, client: MlflowClient, store: ArtifactStore) -> str:
    """A model with the champion v1 and another version, whose champion asset a DAG uses."""
    from airflow.models.asset import AssetModel
    from airflow.utils.session import create_session

    name = f"delays_{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    run = client.create_run("0").info
    for _ in range(2):
        client.create_model_version(name, f"{run.artifact_uri}/model", run.run_id)
    ledger, ref = Ledger(store, name), ModelVersionRef(model=name, version=1, run_id=run.run_id)
    ledger.record("a", lambda _: Decision(decision="promoted", replaced=None, champion=ref, reason="It is better."))
    carry_out(client, ledger)
    uri = f"mlops://{name}/champion"
    with create_session() as session:
        session.add(AssetModel(name=uri, uri=uri, group="asset"))
    return name


@pytest.fixture
def send(app: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Send an event with MLflow's own code, without a login."""
    from mlflow.entities.webhook import Webhook, WebhookEvent
    from mlflow.webhooks import delivery

    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http")
    monkeypatch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")

    def send(
        name: Any,
        event: str = "model_version_alias.created",
        alias: str = "champion",
        secret: str | None = SECRET,
        headers: dict[str, Any] | None = None,
        body: bytes | None = None,
    ) -> Any:
        class Session:
            def post(self, url: str, data: bytes, headers: dict[str, Any], timeout: float) -> Any:
                return http(app, None).post(url, content=body or data, headers={**headers, **changed})

        changed, found = headers or {}, WebhookEvent.from_str(event)
        webhook = Webhook("id", "name", URL, [found], 0, 0, secret=secret)
        data: Any = {"name": name, "alias": alias, "version": "2"}
        return delivery._send_webhook_request(webhook, data, found, Session())  # type: ignore[arg-type]

    return send


def entries(store: ArtifactStore, model: str) -> list[Entry]:
    return Ledger(store, model).entries()


def events(model: str) -> list[dict[str, Any]]:
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = select(AssetEvent).join(AssetModel, AssetEvent.asset_id == AssetModel.id)
        listed = session.scalars(found.where(AssetModel.uri == f"mlops://{model}/champion").order_by(AssetEvent.id))
        return [event.extra for event in listed]


def test_a_moved_alias_is_recorded_and_has_one_event(
    send: Send, client: MlflowClient, store: ArtifactStore, model: str
) -> None:
    assert send(model).status_code == 204
    assert len(entries(store, model)) == 1
    client.set_registered_model_alias(model, "champion", "2")
    for _ in range(2):
        assert send(model).status_code == 204
    client.delete_registered_model_alias(model, "champion")
    assert send(model, "model_version_alias.deleted").status_code == 204
    _, moved, deleted = verify(client, Ledger(store, model))
    assert (moved.decision, moved.outside and moved.outside.noticed_by) == ("moved_outside", "webhook")
    assert deleted.champion is None
    run_id = moved.champion.run_id if moved.champion else ""
    assert events(model) == [
        {"version": 2, "run_id": run_id, "replaced": 1, "reason": moved.reason},
        {"version": None, "run_id": None, "replaced": 2, "reason": deleted.reason},
    ]


def test_an_event_that_an_earlier_request_lost_is_created_by_the_next(
    send: Send, client: MlflowClient, store: ArtifactStore, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*_: object) -> None:
        raise MLOpsError("Airflow's database could not be written.")

    client.set_registered_model_alias(model, "champion", "2")
    with monkeypatch.context() as broken:
        broken.setattr(webhooks.server, "emit_champion", unavailable)
        # MLflow must send the request again.
        assert send(model).status_code == 503
    assert (len(entries(store, model)), events(model)) == (2, [])
    for _ in range(2):
        assert send(model).status_code == 204
    assert [event["version"] for event in events(model)] == [2]
    # The webhook sends no event for a promotion, because the task of the promotion sends it.
    ref = ModelVersionRef(model=model, version=1, run_id="")
    decision = Decision(decision="promoted", replaced=None, champion=ref, reason="It is better.")
    Ledger(store, model).record("b", lambda _: decision)
    carry_out(client, Ledger(store, model))
    assert send(model).status_code == 204
    assert (len(entries(store, model)), len(events(model))) == (3, 1)


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models whose champion would be looked up; MLflow is not used."""
    found: list[str] = []
    monkeypatch.setattr(webhooks, "_look", lambda model, conn_id: found.append(model))
    return found


def test_a_webhook_without_a_valid_signature_is_refused(send: Send, unseen: list[str]) -> None:
    for given in ({"secret": "another"}, {"secret": None}, {"headers": {"X-MLflow-Delivery-Id": "x"}}, {"body": b"{}"}):
        assert send("delays", **given).status_code == 401
    for name in ("v1,", "v1,%", "v2,AAAA", "v1,é".encode()):
        assert send("delays", headers={"X-MLflow-Signature": name}).status_code == 401
    assert unseen == []
    assert send("delays").status_code == 204
    assert unseen == ["delays"]


@pytest.mark.parametrize(("age", "status"), [(290, 204), (310, 401), (-290, 204), (-310, 401)])
def test_an_event_is_accepted_for_five_minutes(
    age: int, status: int, send: Send, unseen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(webhooks.time, "time", lambda: now + age)  # type: ignore[attr-defined]
    monkeypatch.setattr("mlflow.webhooks.delivery.time", type("Clock", (), {"time": staticmethod(lambda: now)}))
    assert send("delays").status_code == status


def test_an_invalid_signed_time_is_refused(send: Send, unseen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow.webhooks.delivery.time", type("Clock", (), {"time": staticmethod(lambda: 10**400)}))
    assert send("delays").status_code == 401


def test_large_and_invalid_bodies_are_refused(send: Send, unseen: list[str]) -> None:
    assert send("x" * 70_000).status_code == 413
    assert send(3).status_code == 422
    assert send("delays", "model_version.created").status_code == 204
    assert send("delays", alias="challenger").status_code == 204
    assert unseen == []


def test_a_webhook_about_a_model_without_a_ledger_is_ignored(send: Send, store: ArtifactStore) -> None:
    assert send("unknown").status_code == 204
    assert store.keys("ledger") == []


def test_without_a_secret_nothing_is_accepted(send: Send, unseen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_THE_WEBHOOK", json.dumps({"conn_type": "generic"}))
    assert send("delays", secret="").status_code == 503
    monkeypatch.setenv("AIRFLOW__MLOPS__WEBHOOK_CONN_ID", "")
    assert send("delays").status_code == 404
    assert unseen == []


def test_a_webhook_is_retried_while_mlflow_does_not_answer(
    send: Send, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    decision = Decision(decision="refused", replaced=None, champion=None, reason="It is worse.")
    Ledger(store, "delays").record("a", lambda _: decision)
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": "http://127.0.0.1:1"}))
    monkeypatch.setattr("airflow_mlops.registry.client._PAUSE", 0)
    assert send("delays").status_code == 503
    assert len(entries(store, "delays")) == 1
