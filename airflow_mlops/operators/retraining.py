"""The asset ``mlops://MODEL/retrain``. Events of this asset request retraining and can start a DAG run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.calls import Request

log = logging.getLogger("airflow_mlops.operators")
# Number of the newest asset events that are searched for an earlier event with the same request.
_EVENTS = 200


def retrain_asset(model: str) -> Asset:
    """Return the asset ``mlops://MODEL/retrain``. Events of this asset request retraining of ``model``."""
    return Asset(f"mlops://{model}/retrain")


def emit_request(alias: AssetAlias, context: Context, result: dict[str, Any], extra: dict[str, Any]) -> None:
    """Emit an asset event that requests retraining, unless the same request was sent before.

    A second check of a window therefore does not start a second training. Earlier requests are looked up in Airflow's
    asset events. If a task fails before Airflow stores the event, a retry emits the event again.

    :param alias: asset alias in the outlets of the task
    :param result: the result of the check, with ``model`` and ``request``
    :param extra: additional fields of the event
    """
    asset, request = retrain_asset(result["model"]), result["request"]
    # Ids repeat after the artifact store was emptied. Therefore the creation times are compared as well.
    if (request["id"], request["created"]) in _sent(asset):
        log.info("Retraining was already requested for this window: %s. No second event is sent.", request["id"])
        return
    context["outlet_events"][alias].add(asset, extra={**extra, "request": request})


def _sent(asset: Asset) -> set[tuple[Any, Any]]:
    # Reading events works only in a running task.
    from airflow.sdk.execution_time.context import InletEventsAccessor

    events = InletEventsAccessor(asset_name=asset.name, asset_uri=asset.uri).ascending(False).limit(_EVENTS)
    found = [(event.extra or {}).get("request") for event in events]
    return {(request.get("id"), request.get("created")) for request in found if isinstance(request, dict)}


def triggering_requests(context: Context) -> list[Request]:
    """Return the requests for retraining that started the DAG run, oldest first; an empty list if there were none."""
    from pydantic import ValidationError

    from airflow_mlops.core.calls import Request

    events = context.get("triggering_asset_events") or {}
    # Airflow lists an event under the asset and under the aliases of the asset.
    found = [(asset, event) for asset in events if isinstance(asset, Asset) for event in events[asset]]
    requests = []
    for asset, event in sorted(found, key=lambda item: item[1].timestamp):
        content = (event.extra or {}).get("request")
        if content is None or asset.uri != (expected := f"mlops://{_model(content)}/retrain"):
            continue
        try:
            requests.append(Request.model_validate(content))
        except ValidationError as error:
            log.warning(
                "An event of asset %s contains an invalid request, which is ignored: %s",
                expected,
                error.errors()[0]["msg"],
            )
    return requests


def _model(request: Any) -> str:
    return str(request.get("model", "")) if isinstance(request, dict) else ""
