"""Receive the webhook of an MLflow model registry, and record aliases that were moved outside of this package.

MLflow signs its requests with a secret that only MLflow and Airflow know, so these requests need no login. A signed
request only names the model to check. The champion is read from MLflow. Therefore a repeated request changes nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import time
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import uuid4

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import ConfigDict, ValidationError

from airflow_mlops import server
from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.versions import CHAMPION
from airflow_mlops.settings import default_store, webhook_conn_id

log = logging.getLogger(__name__)

# Names of headers and events in MLflow 3 (mlflow.webhooks).
_ID, _TIME, _SIGNATURE = "X-MLflow-Delivery-Id", "X-MLflow-Timestamp", "X-MLflow-Signature"
_ENTITY, _ACTIONS = "model_version_alias", ("created", "deleted")
_SIGNATURE_VERSION = "v1,"
# Largest body, in bytes. Events of aliases have a few hundred bytes.
_LARGEST = 64 * 1024
# Largest accepted difference, in seconds, between the signed time and this server's clock. A retry of MLflow has the
# signature of the first request, and all retries end within this time.
_REPLAY_WINDOW = 300
# Largest number of digits of a time. Python refuses to convert text with thousands of digits to an integer.
_DIGITS = 20
# MLflow repeats a request that is answered with this status.
_TRY_AGAIN = 503

app = FastAPI(title="MLOps webhooks", docs_url=None, redoc_url=None, openapi_url=None)


class _Alias(Model):
    name: str
    alias: str


class _Event(Model):
    """The fields of an MLflow event that are used. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    entity: str
    action: str
    data: dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """The MLflow server whose webhooks are accepted.

    :param secret: the secret with which the server signs webhooks
    :param conn_id: id of the Airflow connection to MLflow
    """

    secret: str
    conn_id: str


def _source() -> _Source:
    """Return the secret and the connection of the MLflow server whose webhook is accepted.

    The answer is 404 if no webhook is accepted, and 503 if the connection cannot be read or has no password.
    """
    if not (conn_id := webhook_conn_id()):
        raise HTTPException(404, "No webhook is accepted: [mlops] webhook_conn_id is empty.")
    try:
        found = server.connection(conn_id)
    except MLOpsError as error:
        log.error("A webhook of MLflow was refused: %s", error)
        raise HTTPException(_TRY_AGAIN, "The connection of [mlops] webhook_conn_id cannot be read.") from None
    if not found.secret:
        log.error("A webhook of MLflow was refused: connection %r has no password, which is its secret.", conn_id)
        raise HTTPException(_TRY_AGAIN, "The connection of [mlops] webhook_conn_id has no password.")
    return _Source(found.secret, str(found.extra.get("mlflow_conn_id") or "mlflow_default"))


@app.post("/mlflow", status_code=204)
async def mlflow(request: Request, source: Annotated[_Source, Depends(_source)]) -> Response:
    """Receive an event of the registry. Only events about the alias ``champion`` have an effect.

    The status is 401 if the signature is wrong or too old, 404 if no webhook is accepted, 413 if the event is too
    large, 422 if the body is not an event, and 503 if MLflow should try again. Otherwise, the status is 204.
    """
    body = await _body(request)
    _require_signature(request, source.secret, body)
    try:
        event = _Event.model_validate_json(body)
        if event.entity != _ENTITY or event.action not in _ACTIONS:
            return Response(status_code=204)
        alias = _Alias.model_validate({name: event.data.get(name) for name in ("name", "alias")})
    except ValidationError:
        raise HTTPException(422, "The body is not an event of an MLflow registry.") from None
    if alias.alias == CHAMPION:
        await run_in_threadpool(_look, alias.name, source.conn_id)
    return Response(status_code=204)


async def _body(request: Request) -> bytes:
    """Read the body of a request. A body that is too large is answered with status 413 before it is read completely."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST:
            raise HTTPException(413, f"An event has at most {_LARGEST} bytes.")
    return body


def _require_signature(request: Request, secret: str, body: bytes) -> None:
    """Check that MLflow has signed a request, and that the signature is at most 300 seconds old.

    The signature is the HMAC-SHA256 of id, time and body, as ``mlflow.webhooks.delivery`` computes it. If the signature
    is wrong or too old, the answer is 401.
    """
    delivery, sent, given = (request.headers.get(name, "") for name in (_ID, _TIME, _SIGNATURE))
    signed = b".".join((delivery.encode(), sent.encode(), body))
    wanted = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    try:
        found = base64.b64decode(given.removeprefix(_SIGNATURE_VERSION), validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if not given.startswith(_SIGNATURE_VERSION) or not hmac.compare_digest(wanted, found):
        raise HTTPException(401, "The signature is wrong.")
    # The time is part of the signed text, so MLflow has written it.
    if (
        not (sent.isascii() and sent.isdecimal() and len(sent) <= _DIGITS)
        or abs(time.time() - int(sent)) > _REPLAY_WINDOW
    ):
        raise HTTPException(401, f"The event is more than {_REPLAY_WINDOW} seconds old, or the clocks differ.")


def _look(model: str, conn_id: str) -> None:
    """Record a change of the champion, and create its asset event.

    The event is also created if an earlier request has recorded the change but did not create the event, because the
    API server crashed or Airflow's database did not respond.
    """
    from airflow_mlops.core.references import MLflowTarget
    from airflow_mlops.stages.context import StepContext
    from airflow_mlops.stages.outside_moves import step
    from airflow_mlops.stages.outside_moves.spec import OutsideMovesSpec

    try:
        store = ArtifactStore(default_store())
        ledger = Ledger(store, model)
        if not ledger.count():
            # The registry may contain models that have no ledger.
            return
        spec = OutsideMovesSpec(model=model, noticed_by="webhook", mlflow=MLflowTarget(conn_id=conn_id))
        found = step.run(spec, StepContext(store, f"webhooks/{model}/{uuid4().hex}", server.connection))
        if found is not None:
            log.info("%s", found.summary)
        # If a task of this package changed the champion, that task creates the event.
        found = found or step.last(ledger, "webhook")
        if found is not None:
            server.emit_champion(found)
    except (MLOpsError, ImportError) as error:
        log.error("An event of MLflow about the champion of %r was not processed: %s", model, error)
        raise HTTPException(
            _TRY_AGAIN, "The event was not processed. The log of Airflow's API server says why."
        ) from None
